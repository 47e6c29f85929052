package tracked

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
	backend := netip.MustParseAddrPort("10.245.0.10:8080")
	f := &routing.Frontend{
		Key:  routing.Key{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: catalog.UDP, Port: 80},
		Sets: &routing.Sets{Cluster: []routing.Backend{{AddrPort: backend, Ready: true, Serving: true}}},
	}
	before, now := map[routing.Key]*routing.Frontend{f.Key: f}, map[routing.Key]*routing.Frontend{}
	var flow conntrack.Flow
	flow.TupleOrig.IP.DestinationAddress, flow.TupleReply.IP.SourceAddress = f.Addr, backend.Addr()
	flow.TupleOrig.Proto = conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, DestinationPort: f.Port}
	flow.TupleReply.Proto = conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, SourcePort: backend.Port()}

	c := NewChanges()
	stale := func(in map[routing.Key]*routing.Frontend) bool {
		return c.stale(&flow, nil, func(k routing.Key) *routing.Frontend { return in[k] }, func(netip.Addr) bool { return false })
	}
	c.Replaced(nil, before)
	if stale(before) {
		t.Error("a flow to a backend that serves is stale")
	}
	c.Replaced(before, now)
	if !stale(now) {
		t.Error("a flow of a frontend that is gone goes on")
	}
}
