// Package bfd watches the paths to routers by Bidirectional Forwarding Detection: RFC 5880
// in asynchronous mode without authentication, over one hop (RFC 5881) and several (RFC 5883).
//
//	UDP 3784, 4784 -- parse, TTL --> the session of the discriminator or address
//	session: machine (pure: packets and time -> state) --> packets at the agreed pace
//	        \--> changes of state to whoever watches
//
// In: what to watch, and packets of strangers. Out: packets, and the state of each path. It
// knows no BGP. Echo and demand mode aren't done; a router that asks for them gets none.
package bfd
