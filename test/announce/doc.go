// Package announce tests who answers for load-balancer addresses on a LAN: three nodes in
// namespaces of their own, each with a data plane, a guest behind it and an agent's
// announcer in a process of its own, and a client that sends all the time.
package announce
