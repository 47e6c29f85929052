package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/vm/link"
)

// TestMain builds the guest before the tests move into a namespace of their own,
// from which nothing can be downloaded.
func TestMain(m *testing.M) {
	_, _ = artifacts() // an error shows where the guest is needed
	nstest.Main(m)
}

// nodeNetwork is a node's network as the agent sets it up.
func nodeNetwork(t *testing.T) *routes.Network {
	t.Helper()
	nstest.Need(t)
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	state := t.TempDir()
	n, err := routes.Setup(t.Context(), routes.Config{
		Services: prefixes("10.96.0.0/12", "fd00:10:96::/112"),
		Cluster:  prefixes("10.244.0.0/16", "fd00:10:244::/56"),
		Guests:   prefixes("10.245.0.0/16", "fd00:10:245::/64"),
		PodCIDRs: prefixes("10.244.3.0/24", "fd00:10:244:3::/64"),
		StateDir: state, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		if _, err := routes.Teardown(state); err != nil {
			t.Error(err)
		}
	})
	return n
}

// linked is a daemon whose guests have a network.
func linked(t *testing.T, n *routes.Network, dir string) (*Manager, *link.Manager) {
	t.Helper()
	links, err := link.Open(link.Config{Source4: n.Own(false), Source6: n.Own(true), MTU: 1500, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return daemonWith(t, dir, links), links
}

// get asks until there is an answer: a guest takes its time to boot.
func get(t *testing.T, method, address string) string {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	late := time.Now().Add(bootTime)
	for {
		r, err := http.NewRequestWithContext(t.Context(), method, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err == nil {
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(b))
		}
		if time.Now().After(late) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func at(a netip.Addr, port int, path string) string {
	return "http://" + net.JoinHostPort(a.String(), fmt.Sprint(port)) + path
}

// VM-04 (addresses of both families, from the agent to the guest's clients), VM-06
// (the network outlives the daemon too).
func TestGuestNetwork(t *testing.T) {
	n := nodeNetwork(t)
	dir := filepath.Join(t.TempDir(), "guests")
	m, links := linked(t, n, dir)
	began := time.Now()
	var guests []*Guest
	for i := 1; i <= 2; i++ {
		s := testSpec(fmt.Sprintf("8d0b6c0e-2f7e-4a52-9a3c-0f6d9b9b8a0%d", i))
		s.Kernel.Args = strings.ReplaceAll(s.Kernel.Args, "hostname=probe", "")
		s.MAC, s.Hostname = fmt.Sprintf("02:70:6f:00:00:%02d", i), fmt.Sprintf("guest-%d", i)
		s.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 245, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:245::%d", i))}
		s.DNS, s.Search = []netip.Addr{netip.MustParseAddr("10.96.0.10")}, []string{"default.svc.cluster.local"}
		g, err := m.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		guests = append(guests, g)
	}
	for i, g := range guests {
		for _, a := range g.Spec.Addresses {
			if got, want := get(t, "GET", at(a, 9376, "/")), fmt.Sprintf("guest-%d", i+1); got != want {
				t.Errorf("%s answers %q, want %q (the hostname by DHCP)", a, got, want)
			}
		}
	}
	t.Logf("two guests, both families: %.1f s", time.Since(began).Seconds())
	for family, a := range map[string]netip.Addr{"4": guests[1].Spec.Addresses[0], "6": guests[1].Spec.Addresses[1]} {
		q := url.Values{"url": {at(a, 9376, "/remote")}, "n": {"20"}, "family": {family}}
		answer := get(t, "POST", at(guests[0].Spec.Addresses[0], 9377, "/run?"+q.Encode()))
		var result struct {
			Answers  map[string]int
			Failures int
		}
		if err := json.Unmarshal([]byte(answer), &result); err != nil || result.Failures > 0 {
			t.Fatalf("guest to guest by IPv%s: %s, %v", family, answer, err)
		}
		for from := range result.Answers {
			if ap, err := netip.ParseAddrPort(from); err != nil || (ap.Addr().Unmap() != guests[0].Spec.Addresses[0] && ap.Addr() != guests[0].Spec.Addresses[1]) {
				t.Errorf("guest 2 saw the client %s", from)
			}
		}
	}
	c := attach(t, guests[0])
	c.say(t, "resolv")
	c.expect(t, "nameserver 10.96.0.10")
	c.expect(t, "search default.svc.cluster.local")

	m.Close()
	links.Close()
	m, links = linked(t, n, dir)
	defer links.Close()
	for _, g := range guests {
		for _, a := range g.Spec.Addresses {
			get(t, "GET", at(a, 9376, "/"))
		}
	}
	if err := m.StopAll(t.Context(), bootTime); err != nil {
		t.Fatal(err)
	}
	if ids, err := links.List(); err != nil || len(ids) > 0 {
		t.Errorf("links left: %v, %v", ids, err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("folders left: %v", left)
	}
}
