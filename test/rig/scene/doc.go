// Package scene is the network that the data plane's suite runs in, and `make
// rig-shell` shows: a node with two guests, another node with one, and clients
// outside.
//
//	a 10.245.0.2   b 10.245.0.3              c 10.245.0.4
//	      \          /                            |
//	   node 192.0.2.1                      other 192.0.2.2
//	          |                                   |
//	 =========+=============== LAN ===============+==========+===
//	          |                                              |
//	  outside 192.0.2.9                           router 192.0.2.254
//	                                                         | MTU 1300
//	                                                  far 203.0.113.9
//
// In: a rig.T, which the hosts belong to. Out: hosts with addresses and routes of both
// families. It runs no Portico and knows no Service; nothing outside the hosts is touched.
package scene
