package routes

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"

	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/routes/sysctl"
)

// snapshot reads every parameter of the namespace's network.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{"net/ipv4", "net/ipv6"} {
		err := filepath.WalkDir(filepath.Join(sysctl.Root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			// Write-only ones, secrets and counters can't be read or don't stand still.
			if b, err := os.ReadFile(path); err == nil && !strings.Contains(path, "secret") {
				out[path] = string(b)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// NET-02: what was changed is restored byte for byte, in both ways of switching on
// forwarding, also for links that came later; and the default route that a router
// advertised is there all the time.
func TestRestores(t *testing.T) {
	nstest.Need(t)
	for _, global := range []bool{false, true} {
		t.Run(fmt.Sprintf("global=%v", global), func(t *testing.T) {
			cfg := testConfig(t)
			cfg.forceGlobal = global
			out := nstest.New(t)
			out.Connect(t, "eth9", []string{"192.0.2.2/24", "2001:db8::2/64"}, "wan0", []string{"192.0.2.1/24", "2001:db8::1/64", "fe80::99/64"})
			other := nstest.New(t)
			other.Connect(t, "eth7", []string{"203.0.113.2/24"}, "x0", nil)
			if err := sysctl.Set(forwarding6("eth7"), "1"); err != nil { // a router there by the owner's will
				t.Fatal(err)
			}
			advertise(t, out, 900*time.Second)
			nstest.Eventually(t, patience, "a default route by router advertisement", func() bool { return advertised(t) > 0 })
			before := snapshot(t)

			n, err := Setup(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = n.Close() }()
			if advertised(t) == 0 {
				t.Error("the default route is lost")
			}
			// As for each guest's tap: this drops learnt default routes of links with accept_ra=1.
			tap := nstest.New(t)
			tap.Connect(t, "portico-t", nil, "g0", nil)
			if err := sysctl.Set(forwarding6("portico-t"), "1"); err != nil {
				t.Fatal(err)
			}
			if advertised(t) == 0 {
				t.Error("the default route is lost with the first guest's link")
			}
			advertise(t, out, 9000*time.Second)
			nstest.Eventually(t, patience, "a longer life for the default route", func() bool { return advertised(t) > 5000 })

			if global != (get(t, "net/ipv6/conf/all/forwarding") == "1") {
				t.Errorf("all.forwarding is %s", get(t, "net/ipv6/conf/all/forwarding"))
			}
			if get(t, "net/ipv4/ip_forward") != "0" {
				t.Error("ip_forward was touched")
			}
			late := nstest.New(t)
			late.Connect(t, "eth6", []string{"203.0.114.2/24", "2001:db8:6::2/64"}, "y0", nil)
			nstest.Eventually(t, patience, "forwarding on a link that came later", func() bool {
				return get(t, forwarding4("eth6")) == "1"
			})
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			for _, l := range []string{"portico-t", "eth6"} {
				del(t, l)
			}
			report, err := Teardown(cfg.StateDir)
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Restored) == 0 || len(report.Left) != 0 {
				t.Errorf("restored %v, left %v", report.Restored, report.Left)
			}
			after := snapshot(t)
			for _, k := range slices.Sorted(maps.Keys(before)) {
				if before[k] != after[k] {
					t.Errorf("%s was %q, is %q", k, before[k], after[k])
				}
			}
			if _, err := os.Stat(filepath.Join(cfg.StateDir, "sysctls.json")); err == nil {
				t.Error("the record of changes is still there")
			}
			if advertised(t) == 0 {
				t.Error("the default route is lost after all was restored")
			}
		})
	}
}

// A crash after the change and before anything else leaves the record, and the
// next start keeps the first value.
func TestRestoresAfterCrash(t *testing.T) {
	nstest.Need(t)
	uplink(t)
	cfg := testConfig(t)
	before := snapshot(t)
	for range 2 {
		n, err := Setup(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil { // leaves everything, as a crash does
			t.Fatal(err)
		}
	}
	if _, err := Teardown(cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t); !maps.Equal(before, after) {
		t.Error("parameters differ")
	}
}

// advertise sends one router advertisement from the host's wan0.
func advertise(t *testing.T, from *nstest.Host, lifetime time.Duration) {
	t.Helper()
	from.Do(t, func() error {
		ifi, err := net.InterfaceByName("wan0")
		if err != nil {
			return err
		}
		conn, _, err := ndp.Listen(ifi, ndp.Addr("fe80::99"))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		ra := &ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: lifetime}
		return conn.WriteTo(ra, nil, netip.MustParseAddr("ff02::1"))
	})
}

// advertised gives the seconds left of the default route that was learnt by a
// router advertisement; 0 without one.
func advertised(t *testing.T) int {
	t.Helper()
	b, err := exec.Command("ip", "-6", "route", "show", "default", "proto", "ra").CombinedOutput()
	if err != nil {
		t.Fatalf("ip route: %v: %s", err, b)
	}
	_, after, found := strings.Cut(string(b), "expires ")
	if !found {
		return 0
	}
	var seconds int
	if _, err := fmt.Sscanf(after, "%dsec", &seconds); err != nil {
		t.Fatalf("ip route says %q: %v", b, err)
	}
	return seconds
}
