package records

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// typical is a Service as most are: both families and a named port.
func typical(n int) Change {
	svc := &catalog.Service{
		Name:       types.NamespacedName{Namespace: fmt.Sprintf("ns-%d", n%20), Name: fmt.Sprintf("svc-%05d", n)},
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0, 0x96, 14: byte(n >> 8), 15: byte(n)})},
		Ports:      []catalog.ServicePort{{Name: "http", Protocol: catalog.TCP, Port: 80}},
	}
	return Change{Name: svc.Name, Service: svc}
}

func liveHeap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestSize: what a Service costs in memory, in bytes that stay. CoreDNS keeps some
// kilobytes of each.
func TestSize(t *testing.T) {
	const many, most = 10_000, 900
	all := make([]Change, many)
	for i := range all {
		all[i] = typical(i)
	}
	before := liveHeap()
	z := newZone(t)
	z.Replace(all)
	if each := (liveHeap() - before) / many; each > most {
		t.Errorf("%d bytes for a Service, want at most %d", each, most)
	}
	runtime.KeepAlive(z)
	runtime.KeepAlive(all)
}
