// Package userspace is the data plane that carries every connection through this process,
// as the first kube-proxy did: for kernels and firewalls that let nothing else be done.
//
// In: frontends, through dataplane.Backend. Out: sockets that take what comes for them,
// connections of ours to the backends, and two nftables tables "portico-userspace", which
// lead packets for a Service to those sockets and refuse what has no backend. Bytes of TCP
// go from socket to socket inside the kernel (splice(2)); a UDP client has a socket of ours
// towards its backend for as long as it sends.
//
// What this technique can't do: backends see this node as the client; connections end with
// the process; a TCP client outside of loadBalancerSourceRanges is cut off once it is
// connected instead of left without an answer; SCTP isn't served.
package userspace
