package routing

import (
	"encoding/json"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"portico.dev/portico/internal/core/catalog"
)

// FuzzObjects gives whatever decodes as a Service and a slice, as an API server
// without our validation may hold it, to the conversion and the computation: no bytes
// crash them, and no bytes lead packets to where a Service mustn't.
func FuzzObjects(f *testing.F) {
	for _, seed := range [][2]string{
		{`{}`, `{}`},
		{
			`{"metadata":{"name":"a"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80,"nodePort":30080}]}}`,
			`{"metadata":{"labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv4","ports":[{"port":8080}],"endpoints":[{"addresses":["10.0.0.1"]},{"addresses":["127.0.0.1"]}]}`,
		},
		{
			`{"metadata":{"annotations":{"portico.dev/topology-keys":"a,,*"}},"spec":{"type":"LoadBalancer","clusterIPs":["fd00::1","::ffff:10.96.0.1"],"externalIPs":["::","0.0.0.0","1.2.3.4"],` +
				`"loadBalancerSourceRanges":["x","10.0.0.1/8"],"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":-1}},"ports":[{"name":"x","protocol":"UDP","port":-1},{"port":65616}]},` +
				`"status":{"loadBalancer":{"ingress":[{"ip":"fe80::1%eth0"},{"ip":"192.0.2.1"}]}}}`,
			`{"metadata":{"labels":{"kubernetes.io/service-name":"a"},"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"now"}},"addressType":"IPv6","ports":[{"name":"x","protocol":"UDP"},{"port":0}],` +
				`"endpoints":[{"addresses":["::ffff:1.2.3.4"]},{"addresses":[]},{"addresses":["fd00::2"],"hints":{"forZones":[{"name":""}]}},{"addresses":["fd00::2"]}]}`,
		},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, service, slice []byte) {
		var in corev1.Service
		var es discoveryv1.EndpointSlice
		if json.Unmarshal(service, &in) != nil || json.Unmarshal(slice, &es) != nil {
			return
		}
		svc := catalog.FromService(&in)
		var from []*catalog.Slice
		if s := catalog.FromSlice(&es); s != nil {
			s.Service = svc.Name
			from = append(from, s)
		}
		frontends := Compute(benchNode, svc, from)
		seen := map[Key]bool{}
		for i := range frontends {
			fr := &frontends[i]
			if seen[fr.Key] {
				t.Errorf("%s is there twice", fr.Key)
			}
			seen[fr.Key] = true
			if fr.Port == 0 || fr.AnyNode() != (fr.Kind == NodePort) || !fr.AnyNode() && !ofHosts(fr.Addr) {
				t.Errorf("%s is a %s", fr.Key, fr.Kind)
			}
			if fr.Kind == LoadBalancerIP && len(in.Spec.LoadBalancerSourceRanges) > 0 && len(fr.SourceRanges) == 0 {
				t.Errorf("%s is open to everybody, although ranges were asked for", fr.Key)
			}
			for _, set := range [][]Backend{fr.Cluster, fr.Local} {
				for _, b := range set {
					if b.Port() == 0 || !ofHosts(b.Addr()) || b.Addr().Is6() != fr.Addr.Is6() {
						t.Errorf("%s leads to %s", fr.Key, b.AddrPort)
					}
				}
			}
		}
		table := NewTable()
		table.Put(svc.Name, frontends)
		if c := Condition(Problems(svc, from, table.Get), 1); c != nil && (c.Reason == "" || c.Message == "") {
			t.Errorf("a condition that says nothing: %+v", c)
		}
		_ = Format(frontends)
	})
}

func ofHosts(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && a.Zone() == "" && !a.Is4In6()
}
