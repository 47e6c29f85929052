package iptables

import (
	"net/netip"
	"testing"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// DP-13: datagrams of a frontend that is gone lead nowhere, also when a whole new state says
// so.
func TestFlowsOfReplacedState(t *testing.T) {
	f := frontend(1, routing.ClusterIP, backendsOf(1, 10)...)
	f.Protocol = catalog.UDP
	var before, now [2]*family
	for i, v6 := range []bool{false, true} {
		before[i], now[i] = newFamily(v6, &Config{}), newFamily(v6, &Config{})
	}
	before[0].frontends[f.Key] = f
	var flow conntrack.Flow
	backend := f.Cluster[0].AddrPort
	flow.TupleOrig.IP.DestinationAddress, flow.TupleReply.IP.SourceAddress = f.Addr, backend.Addr()
	flow.TupleOrig.Proto = conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, DestinationPort: f.Port}
	flow.TupleReply.Proto = conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, SourcePort: backend.Port()}

	w := newFlows()
	w.replaced([2]*family{}, before)
	ended := map[netip.AddrPort]bool{}
	if w.stale(&flow, before, ended) {
		t.Error("a flow to a backend that serves is stale")
	}
	w.replaced(before, now)
	if !w.stale(&flow, now, ended) {
		t.Error("a flow of a frontend that is gone goes on")
	}
}
