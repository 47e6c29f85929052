// Package userspace is the data plane that carries every connection through this process,
// as the first kube-proxy did: for kernels and firewalls that let nothing else be done, and
// for users who may change nothing.
//
// In: frontends, through dataplane.Backend. Out: sockets that take what comes for them,
// connections of ours to the backends, and two nftables tables "portico-userspace", which
// lead packets for a Service to those sockets and refuse what has no backend. A Direct
// Backend writes no tables: it listens at Services' own addresses and ports, as far as the
// host has those. Bytes of TCP go from socket to socket inside the kernel (splice(2)), and
// idle connections cost neither a goroutine nor a pipe; a UDP client has a socket of ours
// towards its backend for as long as it sends. Reader and DirectReader read back what there
// is, from any process.
//
// What this technique can't do: backends see this node as the client; connections end with
// the process; SCTP isn't served. Direct, cluster IPs aren't served either, and a TCP client
// who may not come is cut off once it is connected instead of left without an answer.
package userspace
