package announcing

import (
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
)

// LB-05: Local needs a ready endpoint of the address's family on the node itself.
func TestReady(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	s := &Service{View: catalog.View{
		Service: &catalog.Service{ExternalLocal: true},
		Slices: []*catalog.Slice{
			{Endpoints: []catalog.Endpoint{{Node: "a", Ready: true}, {Node: "b", Serving: true, Terminating: true}}},
			{IPv6: true, Endpoints: []catalog.Endpoint{{Node: "b", Ready: true}}},
		},
	}}
	for _, c := range []struct {
		addr netip.Addr
		node string
		want bool
	}{{v4, "a", true}, {v4, "b", false}, {v6, "a", false}, {v6, "b", true}, {v4, "c", false}} {
		if got := s.Ready(c.addr, c.node); got != c.want {
			t.Errorf("Local, %s on %s: %v", c.addr, c.node, got)
		}
	}
	s.Service.ExternalLocal, s.Slices = false, nil
	if !s.Ready(v4, "c") {
		t.Error("Cluster without an endpoint isn't announced")
	}
}

// LB-01: names and selectors of pools add up, and neither means all.
func TestForPool(t *testing.T) {
	pool := &metallb.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "lan", Labels: map[string]string{"site": "home"}}}
	home := []metav1.LabelSelector{{MatchLabels: map[string]string{"site": "home"}}}
	dmz := []metav1.LabelSelector{{MatchLabels: map[string]string{"site": "dmz"}}}
	wrong := []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "site", Operator: "Maybe"}}}}
	for what, c := range map[string]struct {
		names     []string
		selectors []metav1.LabelSelector
		want      bool
	}{
		"neither":                  {nil, nil, true},
		"named":                    {[]string{"x", "lan"}, dmz, true},
		"another named":            {[]string{"x"}, nil, false},
		"another named, selected":  {[]string{"x"}, home, true},
		"selected":                 {nil, home, true},
		"one of several selectors": {nil, append(dmz, home...), true},
		"not selected":             {nil, dmz, false},
		"unreadable":               {nil, wrong, false},
	} {
		if got := ForPool(c.names, c.selectors, pool); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
