// Package rig makes hosts for tests out of network namespaces: nodes, guests on
// routed links, clients on a LAN, with small servers and clients that run in them.
//
// In: a test, which must run as root (Need skips it otherwise), or a program in its
// place. Out: hosts that live as long as the test. Namespaces have no names and no
// mounts: they are held open by a file descriptor and vanish with the test's process,
// however it ends. Nothing is changed in the namespace that the test started in.
//
// Package scene sets up the hosts that the data plane's suite and people (make
// rig-shell) play with.
//
//	lan := rig.NewLAN(t)
//	node := rig.NewNode(t, rig.NodeConfig{Name: "a", ...})
//	lan.Connect(node.Host, netip.MustParsePrefix("192.0.2.1/24"))
//	guest := node.Guest("g", netip.MustParseAddr("10.245.0.2"))
//	guest.ServeTCP(t, netip.MustParseAddrPort("10.245.0.2:80"))
//	answer, err := node.Ask("tcp", netip.MustParseAddrPort("10.245.0.2:80"))
package rig
