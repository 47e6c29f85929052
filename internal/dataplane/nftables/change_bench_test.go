package nftables

import (
	"net/netip"
	"testing"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// BenchmarkOneEndpoint is what one changed endpoint of ten costs besides the kernel: the
// plan and its messages.
func BenchmarkOneEndpoint(b *testing.B) {
	families := newFamilies(limits{})
	k := newKernel(families)
	k.time = time.Now()
	version := func(service, last int) *routing.Frontend {
		f := &routing.Frontend{
			Key:  routing.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(service >> 8), byte(service)}), Protocol: catalog.TCP, Port: 80},
			Kind: routing.ClusterIP, Sets: &routing.Sets{},
		}
		for i := range 10 {
			if i == 9 {
				i = last
			}
			f.Cluster = append(f.Cluster, routing.Backend{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(service >> 8), byte(service), byte(i)}), 80), Serving: true})
		}
		for i := range f.Verdicts {
			f.Verdicts[i].Action = routing.ToCluster
		}
		return f
	}
	var versions [2][]*routing.Frontend
	for s := range 1000 {
		versions[0], versions[1] = append(versions[0], version(s, 9)), append(versions[1], version(s, 10))
		k.set(versions[0][s])
	}
	k.settle()
	k.changes = changes{}
	messages := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k.set(versions[1-i/1000%2][i%1000])
		k.settle()
		messages += len(k.now.messages(nil, families)) + len(k.later.messages(nil, families))
		k.changes = changes{}
	}
	b.ReportMetric(float64(messages)/float64(b.N), "messages/op")
}
