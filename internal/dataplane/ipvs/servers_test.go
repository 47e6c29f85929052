package ipvs

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// scribe is a kernel that lacks a scheduler and writes down what it is asked for.
type scribe struct {
	lacks string
	lines []string
}

func (s *scribe) write(all []request) (refused []refusal, _ error) {
	for _, r := range all {
		words := map[byte]string{
			cmdNewService: "new", cmdSetService: "set", cmdDelService: "delete", cmdNewDest: "new", cmdSetDest: "set", cmdDelDest: "delete",
		}
		switch {
		case r.at.IsValid():
			s.lines = append(s.lines, fmt.Sprintf("%s %s %d", words[r.cmd], r.at, r.weight))
		case r.cmd != cmdDelService && r.definition.scheduler == s.lacks:
			refused = append(refused, refusal{r, unix.ENOENT})
		default:
			s.lines = append(s.lines, strings.TrimSpace(fmt.Sprintf("%s %s %s", words[r.cmd], r.key, r.definition.scheduler)))
		}
	}
	return refused, nil
}

// said gives what was written once all is.
func (s *scribe) said(t *testing.T, all *servers) string {
	t.Helper()
	if err := all.flush(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.lines)
	out := strings.Join(s.lines, "; ")
	s.lines = nil
	return out
}

func newServers(s *scribe) *servers {
	all := &servers{to: s, log: slog.New(slog.DiscardHandler), fallback: "rr"}
	all.reset(map[key]*server{})
	return all
}

func want(known *routing.Sets, set ...routing.Backend) *wanted {
	return &wanted{definition: definition{scheduler: "rr"}, set: set, known: known}
}

// DP-11, DP-13: differences alone are written; a backend that leaves keeps its connections,
// and its datagrams while it serves or nobody else does.
func TestServers(t *testing.T) {
	web, dns := tcp("10.96.0.20:80"), key{at("10.96.0.20:53"), catalog.UDP}
	s := &scribe{}
	all := newServers(s)
	none, leaving := &routing.Sets{}, &routing.Sets{LeftOut: []routing.LeftOut{{Backend: here}}}
	for _, step := range []struct {
		name string
		do   func() error
		want string
	}{
		{"new", func() error { return all.put(web, want(none, here)) }, "new 10.245.0.2:8080 1; new TCP 10.96.0.20:80 rr"},
		{"the same again", func() error { return all.put(web, want(none, here)) }, ""},
		{"another", func() error { return all.put(web, want(none, there)) }, "new 10.245.0.4:8080 1; set 10.245.0.2:8080 0"},
		{"it has left already", func() error { return all.put(web, want(none, there)) }, ""},
		{"it comes back", func() error { return all.put(web, want(none, here, there)) }, "set 10.245.0.2:8080 1"},
		{"nobody's", func() error { _, err := all.leave(web, false); return err }, "set 10.245.0.2:8080 0; set 10.245.0.4:8080 0"},
		{"UDP", func() error { return all.put(dns, want(none, here)) }, "new 10.245.0.2:8080 1; new UDP 10.96.0.20:53 rr"},
		{"UDP, it still serves", func() error { return all.put(dns, want(leaving, there)) }, "new 10.245.0.4:8080 1; set 10.245.0.2:8080 0"},
		{"UDP, it stopped serving", func() error { return all.put(dns, want(none, there)) }, "delete 10.245.0.2:8080 0"},
		{"UDP, nobody serves", func() error { _, err := all.leave(dns, true); return err }, "set 10.245.0.4:8080 0"},
		{"UDP, nobody's", func() error { _, err := all.leave(dns, false); return err }, "delete UDP 10.96.0.20:53"},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := s.said(t, all); got != step.want {
			t.Errorf("%s: wrote %q, want %q", step.name, got, step.want)
		}
	}
}

// A scheduler that the kernel lacks leaves the Service served by the default, and is told
// once; the default itself must be there.
func TestMissingScheduler(t *testing.T) {
	s := &scribe{lacks: "ovf"}
	all := newServers(s)
	var told []string
	all.lacking = func(_ types.NamespacedName, _ types.UID, text string) { told = append(told, text) }
	w := want(&routing.Sets{}, here)
	w.scheduler = "ovf"
	for range 2 {
		if err := all.put(tcp("10.96.0.20:80"), w); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.said(t, all); got != "new 10.245.0.2:8080 1; new TCP 10.96.0.20:80 rr" {
		t.Errorf("wrote %q", got)
	}
	if len(told) != 1 || !strings.Contains(told[0], "no module ip_vs_ovf") {
		t.Errorf("told %q, want once which module is missing", told)
	}
	s.lacks = "rr"
	all.reset(map[key]*server{})
	if err := all.put(tcp("10.96.0.21:80"), want(&routing.Sets{}, here)); err == nil || !strings.Contains(err.Error(), "ip_vs_rr") {
		t.Errorf("without the default: %v", err)
	}
}

func TestDifferences(t *testing.T) {
	all := newServers(&scribe{})
	web := tcp("10.96.0.20:80")
	have := &server{definition: definition{scheduler: "lc"}, backends: map[netip.AddrPort]load{
		there.AddrPort: {weight: 0}, at("10.245.0.9:1"): {weight: 1}, at("10.245.0.8:1"): {weight: 0},
	}}
	got := all.differences(web, want(&routing.Sets{}, here, there), have)
	slices.Sort(got)
	wanted := []string{
		"virtual server TCP 10.96.0.20:80: backend 10.245.0.2:8080 missing",
		"virtual server TCP 10.96.0.20:80: backend 10.245.0.4:8080 has weight 0, want 1",
		"virtual server TCP 10.96.0.20:80: backend 10.245.0.9:1 superfluous",
		"virtual server TCP 10.96.0.20:80: scheduler lc and 0 s of persistence, want rr and 0 s",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("got %q", got)
	}
	if got := all.differences(web, want(&routing.Sets{}), nil); len(got) != 1 {
		t.Errorf("of a missing one: %q", got)
	}
}
