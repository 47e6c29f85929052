package tracked

import (
	"net/netip"
	"testing"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// OPS-02: a flow is its frontend's: the one at the very address first, a node port only at
// the node's addresses.
func TestFrontend(t *testing.T) {
	key := func(at string) routing.Key {
		ap := netip.MustParseAddrPort(at)
		return routing.Key{Addr: ap.Addr(), Protocol: catalog.UDP, Port: ap.Port()}
	}
	known := map[routing.Key]bool{key("0.0.0.0:30080"): true, key("[::]:30080"): true, key("10.96.0.1:53"): true, key("192.0.2.1:30080"): true}
	nodes := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("192.0.2.2"): true, netip.MustParseAddr("2001:db8::1"): true}
	for to, want := range map[string]string{
		"10.96.0.1:53":        "10.96.0.1:53",
		"192.0.2.1:30080":     "192.0.2.1:30080",
		"192.0.2.2:30080":     "0.0.0.0:30080",
		"[2001:db8::1]:30080": "[::]:30080",
		"192.0.2.2:53":        "",
		"198.51.100.1:30080":  "",
	} {
		ap := netip.MustParseAddrPort(to)
		var f conntrack.Flow
		f.TupleOrig.IP.DestinationAddress = ap.Addr()
		f.TupleOrig.Proto = conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, DestinationPort: ap.Port()}
		got, ok := Frontend(&f, func(k routing.Key) bool { return known[k] }, func(a netip.Addr) bool { return nodes[a] })
		if ok != (want != "") || ok && got != key(want) {
			t.Errorf("%s is %v, %v; want %q", to, got, ok, want)
		}
	}
}
