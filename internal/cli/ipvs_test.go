package cli

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestIPVSOptions(t *testing.T) {
	for _, c := range []struct{ scheduler, exclude, err string }{
		{"rr", "", ""},
		{"mh", "203.0.113.7/24, 2001:db8::/64", ""},
		{"fastest", "", `--ipvs-scheduler "fastest" is unknown; choose one of rr,`},
		{"rr", "203.0.113.1", `--ipvs-exclude: "203.0.113.1" is not a range`},
	} {
		o := ipvsOptions{scheduler: c.scheduler, exclude: c.exclude}
		err := o.complete()
		if (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%+v: %v", c, err)
		}
		if want := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")}; c.scheduler == "mh" && !slices.Equal(o.excluded, want) {
			t.Errorf("excluded %v, want %v", o.excluded, want)
		}
	}
}
