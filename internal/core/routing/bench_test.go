package routing

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// view is Service i with so many endpoints in slices of at most 100, as the endpoints
// controller writes them; with a cluster IP and a node port, of IPv4. version changes
// one endpoint's readiness.
func view(i, endpoints, version int) catalog.View {
	name := types.NamespacedName{Namespace: "default", Name: fmt.Sprint("service-", i)}
	v := catalog.View{Name: name, Service: &catalog.Service{
		Name: name, UID: types.UID(name.Name), Type: corev1.ServiceTypeNodePort,
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
		Ports:      []catalog.ServicePort{{Name: "http", Protocol: catalog.TCP, Port: 80, NodePort: uint16(10_000 + i)}},
	}}
	for n := range endpoints {
		if n%100 == 0 {
			v.Slices = append(v.Slices, &catalog.Slice{
				Name: types.NamespacedName{Namespace: "default", Name: fmt.Sprint(name.Name, "-", n)}, Service: name,
				Ports:     []catalog.SlicePort{{Name: "http", Protocol: catalog.TCP, Port: 8080}},
				Endpoints: make([]catalog.Endpoint, 0, min(100, endpoints-n)),
			})
		}
		// Slices that interleave cost more than ones that follow each other.
		at := (n%100)*((endpoints+99)/100) + n/100 + i*endpoints
		ready := n != 0 || version%2 == 0
		s := v.Slices[len(v.Slices)-1]
		s.Endpoints = append(s.Endpoints, catalog.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)}),
			Node: nodeNames[n%len(nodeNames)], Zone: zoneNames[n%len(zoneNames)], Ready: ready, Serving: ready,
		})
	}
	return v
}

var nodeNames, zoneNames = names("node-", 50), names("zone-", 3)

func names(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(prefix, i))
	}
	return out
}

var shapes = []struct{ services, endpoints int }{{10_000, 10}, {1_000, 100}, {20, 5_000}}

var benchNode = &catalog.Node{Name: "node-7", Zone: "zone-1"}

func fill(views []catalog.View) *Table {
	var c Computer
	table := NewTable()
	for i := range views {
		table.Put(views[i].Name, c.Compute(benchNode, views[i].Service, views[i].Slices))
	}
	return table
}

func views(services, endpoints int) (out []catalog.View) {
	for i := range services {
		out = append(out, view(i, endpoints, 0))
	}
	return out
}

// BenchmarkFull computes 100,000 endpoints from nothing.
func BenchmarkFull(b *testing.B) {
	for _, s := range shapes {
		all := views(s.services, s.endpoints)
		b.Run(fmt.Sprintf("%dx%d", s.services, s.endpoints), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if fill(all).Len() != 2*s.services {
					b.Fatal("wrong table")
				}
			}
		})
	}
}

// change gives a function that changes one endpoint of one Service of a full table, to
// and fro.
func change(table *Table, services, endpoints int) func() Change {
	var c Computer
	versions := [2]catalog.View{view(services/2, endpoints, 0), view(services/2, endpoints, 1)}
	n := 0
	return func() Change {
		n++
		v := &versions[n%2]
		return table.Put(v.Name, c.Compute(benchNode, v.Service, v.Slices))
	}
}

// BenchmarkChange changes one endpoint among 100,000.
func BenchmarkChange(b *testing.B) {
	for _, s := range shapes {
		b.Run(fmt.Sprintf("%dx%d", s.services, s.endpoints), func(b *testing.B) {
			step := change(fill(views(s.services, s.endpoints)), s.services, s.endpoints)
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}
