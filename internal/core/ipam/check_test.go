package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ALLOC-03: what doesn't agree, and how it is mended.
func TestCheck(t *testing.T) {
	holder := func(name string, age int, keys ...string) *Holder {
		h := &Holder{
			Resource: corev1.Resource("services"), Namespace: "default", Name: name, UID: types.UID(name),
			ResourceVersion: "1", Created: time.Unix(int64(100-age), 0),
		}
		for _, key := range keys {
			kind, _, _ := strings.Cut(key, "/")
			h.Claims = append(h.Claims, Claim{Kind(kind), key, h.UID})
		}
		return h
	}
	held := func(owner string, keys ...string) (list []Held) {
		for i, key := range keys {
			kind, _, _ := strings.Cut(key, "/")
			list = append(list, Held{Claim{Kind(kind), key, types.UID(owner)}, int64(10 + i)})
		}
		return list
	}
	for name, c := range map[string]struct {
		held    []Held
		holders []*Holder
		want    []string
	}{
		"all is well": {held("a", "ip/10.96.0.1", "nodeport/30000"), []*Holder{holder("a", 1, "ip/10.96.0.1", "nodeport/30000")}, nil},
		"nobody's": {
			held("gone", "ip/10.96.0.1", "nodeport/30000", "mac/02:70:00:00:00:01", "range/10.1.0.0/24/more"), nil,
			[]string{
				"ClaimNotUsed ip/10.96.0.1@10 -> nobody", "ClaimNotUsed nodeport/30000@11 -> nobody",
				"ClaimNotUsed mac/02:70:00:00:00:01@12 -> nobody", "ClaimNotUsed range/10.1.0.0/24/more@13 -> nobody",
			},
		},
		"of a kind that we don't know": {held("gone", "future/192.0.2.1"), nil, nil},
		"given up":                     {held("a", "ip/10.96.0.1"), []*Holder{holder("a", 1)}, []string{"ClaimNotUsed ip/10.96.0.1@10 -> nobody if a"}},
		"missing": {
			nil,
			[]*Holder{holder("a", 1, "ip/10.96.0.1", "nodeport/30000")},
			[]string{"ClusterIPNotAllocated ip/10.96.0.1@0 -> a if a", "PortNotAllocated nodeport/30000@0 -> a if a"},
		},
		"missing twice: the older first": {
			nil,
			[]*Holder{holder("young", 1, "ip/10.96.0.1"), holder("old", 2, "ip/10.96.0.1")},
			[]string{"ClusterIPNotAllocated ip/10.96.0.1@0 -> old if old", "ClusterIPNotAllocated ip/10.96.0.1@0 -> young if young"},
		},
		"held by nobody's": {held("gone", "ip/10.96.0.1"), []*Holder{holder("a", 1, "ip/10.96.0.1")}, []string{"ClusterIPNotAllocated ip/10.96.0.1@10 -> a if a"}},
		"held by one that doesn't want it": {
			held("b", "ip/10.96.0.1"),
			[]*Holder{holder("a", 1, "ip/10.96.0.1"), holder("b", 2)},
			[]string{"ClusterIPNotAllocated ip/10.96.0.1@10 -> a if b a"},
		},
		"held by another that wants it": {
			held("b", "nodeport/30000", "ip/10.96.0.1"),
			[]*Holder{holder("a", 1, "ip/10.96.0.1", "nodeport/30000"), holder("b", 2, "ip/10.96.0.1", "nodeport/30000")},
			[]string{"ClusterIPAlreadyAllocated ip/10.96.0.1, for people", "PortAlreadyAllocated nodeport/30000, for people"},
		},
	} {
		var got []string
		for _, f := range Check(c.held, c.holders) {
			if f.Repair == nil {
				got = append(got, fmt.Sprintf("%s %s, for people", f.Reason, f.Key))
				continue
			}
			line := fmt.Sprintf("%s %s@%d -> %s", f.Reason, f.Key, f.Repair.Revision, f.Repair.Owner)
			if f.Repair.Owner == "" {
				line += "nobody"
			}
			for i, h := range f.Repair.If {
				if i == 0 {
					line += " if"
				}
				line += " " + h.Name
			}
			got = append(got, line)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got  %q\n want %q", name, got, c.want)
		}
	}
}

func TestOutOfRange(t *testing.T) {
	ports, err := NewPortRange(30000, 30009, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &Holder{Resource: corev1.Resource("services"), Claims: []Claim{
		{Kind: Address, Key: "ip/10.96.0.1"}, {Kind: Address, Key: "ip/fd00::1"}, {Kind: NodePort, Key: "nodeport/30000"}, {Kind: NodePort, Key: "nodeport/31000"},
	}}
	var got []string
	for _, f := range OutOfRange(h, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, ports) {
		got = append(got, f.Reason+": "+f.Message)
	}
	want := []string{
		"ClusterIPOutOfRange: Cluster IP [IPv6]: fd00::1 is not within any configured Service CIDR; please recreate service",
		"PortOutOfRange: Port 31000 is not within the port range 30000-30009; please recreate service",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// ALLOC-05: ranges come and go with ServiceCIDRs' claims, may overlap, and an address is
// given under a claim that contains it.
func TestRangesComeAndGo(t *testing.T) {
	ports, err := NewPortRange(30000, 32767, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPools(ports)
	if err != nil {
		t.Fatal(err)
	}
	cluster := usualPools(t) // for the preparation of requests
	assign := func(line string) (string, error) {
		svc := request(t, cluster, line, nil)
		a, err := p.Assign(svc, nil)
		if err != nil {
			return "", err
		}
		a.Commit()
		return svc.Spec.ClusterIP + " under " + strings.Join(a.Requires(), ","), nil
	}
	want := func(line, result string) {
		t.Helper()
		got, err := assign(line)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, result) {
			t.Errorf("%s: got %q, want %q", line, got, result)
		}
	}
	want(``, "range is full: no ServiceCIDR of family IPv4 is ready")
	want(`clusterIP: 10.96.0.1`, "The range of valid IPs is empty")
	p.Replace(slices.Values([]string{"range/10.96.0.0/30/kubernetes", "range/10.97.0.0/30/b", "ip/10.96.0.1"}))
	want(``, "10.96.0.2 under range/10.96.0.0/30/kubernetes")
	p.Mark(Claim{Key: "range/10.97.0.0/30/a"}, Claim{Key: "range/10.97.0.0/24/c"})
	want(`clusterIP: 10.97.0.1`, "10.97.0.1 under range/10.97.0.0/30/a")
	want(``, "10.97.0.2 under range/10.97.0.0/30/a")
	p.Free(Claim{Key: "range/10.97.0.0/30/a"})
	want(`clusterIP: 10.97.0.3`, "10.97.0.3 under range/10.97.0.0/24/c") // the other's broadcast address
	p.Free(Claim{Key: "range/10.97.0.0/30/b"})
	for range 251 { // 254 but three
		want(``, "under range/10.97.0.0/24/c")
	}
	want(``, "range is full: 10.96.0.0/30, 10.97.0.0/24")
	p.Free(Claim{Key: "range/10.97.0.0/24/c"})
	want(`clusterIP: 10.97.0.9`, "The range of valid IPs is 10.96.0.0/30")
	p.Free(Claim{Key: "range/10.96.0.0/30/kubernetes"})
	want(``, "no ServiceCIDR")
}
