// Package l2 answers ARP requests and neighbour solicitations for the load-balancer
// addresses that this node holds, and has neighbours know when an address moves.
//
// In: announcing.Input, what greet tells of other nodes, the host's links, frames from
// them. Out: ARP and NDP frames, this node's Word to its peers, events and metrics, the
// ServiceL2Status objects of what it holds. It adds no address to a link and no rule: that
// packets to the addresses are served is the data plane's.
//
//	Input, View --> election --> holdings --> [link] answers, on each link
//	                    |            +------> announcements: a burst, then now and then
//	                    +--> Word (claims) --> greet
//
// One goroutine (Announcer.Run) decides; those that read frames only look things up.
//
//	announcer.go  what is held: taking, yielding, releasing
//	links.go      which links there are;  link.go: the sockets of one
//	arp.go, ndp.go  frames;  store.go: what a restart finds
//	status.go     objects in the API;  report.go: for `portico announce`
package l2
