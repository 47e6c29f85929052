// Package announcing has what ARP, NDP and BGP share when load-balancer addresses are made
// known: the Services that have such addresses, the nodes that may announce them, and the
// rules by which advertisements choose pools, Services and nodes.
//
// In: custom resources of metallb.io, Services with their endpoints as catalog values, and
// the nodes. Out: yes or no. It holds nothing, and how an address is announced is decided
// elsewhere: by election for one holder on a link, by bgp for routes from many nodes.
package announcing
