package agent

import (
	"net/netip"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func prefixes(text ...string) (out []netip.Prefix) {
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// ALLOC-05: what is handed over is the union of all ServiceCIDRs, when it changes.
func TestRanges(t *testing.T) {
	s := newState("a")
	var told [][]netip.Prefix
	ranges := Ranges{Default: prefixes("10.96.0.0/12"), To: func(r []netip.Prefix) { told = append(told, r) }}
	s.do(func() { s.listed = [resources]bool{true, true, true, true} })
	for _, step := range []struct {
		what, name string
		cidrs      []string
		want       []string // nil: nothing is handed over
	}{
		{"none yet: the standard", "", nil, []string{"10.96.0.0/12"}},
		{"the first", "kubernetes", []string{"10.96.0.0/16", "fd00::/112"}, []string{"10.96.0.0/16", "fd00::/112"}},
		{"the same again", "kubernetes", []string{"10.96.0.0/16", "fd00::/112"}, nil},
		{"one before it", "more", []string{"10.0.0.0/24"}, []string{"10.0.0.0/24", "10.96.0.0/16", "fd00::/112"}},
		{"one inside", "inner", []string{"10.96.7.0/24"}, nil},
		{"one around", "outer", []string{"10.96.0.0/12"}, []string{"10.0.0.0/24", "10.96.0.0/12", "fd00::/112"}},
		{"gone", "outer", nil, []string{"10.0.0.0/24", "10.96.0.0/16", "fd00::/112"}},
		{"what was around is gone", "kubernetes", nil, []string{"10.0.0.0/24", "10.96.7.0/24"}},
		{"one left", "more", nil, []string{"10.96.7.0/24"}},
		{"none left", "inner", nil, []string{"10.96.0.0/12"}},
	} {
		if step.name != "" {
			s.do(func() { s.putCIDR(types.NamespacedName{Name: step.name}, prefixes(step.cidrs...)) })
		}
		told = nil
		if s.hasNews() {
			s.handOver(ranges, nil)
		}
		switch {
		case step.want == nil && told != nil:
			t.Errorf("%s: handed over %v", step.what, told)
		case step.want != nil && (len(told) != 1 || !slices.Equal(told[0], prefixes(step.want...))):
			t.Errorf("%s: handed over %v, want %v", step.what, told, step.want)
		}
	}
}
