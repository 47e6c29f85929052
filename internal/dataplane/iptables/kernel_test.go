package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane/backendtest"
)

// alone runs a test in a network namespace of its own, on both variants. Its thread ends with it.
func alone(t *testing.T, f func(t *testing.T, variant string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, v := range []string{Legacy, NFTables} {
		if _, err := find("iptables-" + v + "-restore"); err != nil {
			t.Skip(err)
		}
		t.Run(v, func(t *testing.T) {
			t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			f(t, v)
		})
	}
}

func open(t *testing.T, variant string) *Backend {
	t.Helper()
	b, err := New(Config{
		Variant: variant, MasqueradeBit: DefaultMasqueradeBit,
		WorkloadRanges: []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:245::/48")},
		HairpinSources: []netip.Addr{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00:10:244::1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() }) //nolint:errcheck // the test is over
	return b
}

// backendsOf gives n backends, every third on another node.
func backendsOf(n, from int) (out []routing.Backend) {
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 245, byte((from + i) >> 8), byte(from + i)})
		out = append(out, routing.Backend{AddrPort: netip.AddrPortFrom(a, 8080), Local: i%3 != 2, Ready: true, Serving: true})
	}
	return out
}

func frontend(i int, kind routing.Kind, backends ...routing.Backend) *routing.Frontend {
	f := &routing.Frontend{
		Key:  routing.Key{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: catalog.TCP, Port: 80},
		Kind: kind, Service: types.NamespacedName{Namespace: "default", Name: fmt.Sprint("s", i)}, PortName: "http",
		Sets: &routing.Sets{Cluster: backends},
	}
	if kind == routing.NodePort {
		f.Key = routing.Key{Addr: netip.IPv4Unspecified(), Protocol: catalog.TCP, Port: uint16(30000 + i)}
	}
	if len(backends) == 0 {
		for o := range f.Verdicts {
			f.Verdicts[o].Action = routing.Reject
		}
	}
	return f
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// cpu is what this process and its children have used.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(syscall.TimevalToNsec(syscall.Timeval(u.Utime)) + syscall.TimevalToNsec(syscall.Timeval(u.Stime)))
	}
	return sum
}

// DP-20: the first sync, and one endpoint's change, which rewrites one set. The figures are
// logged; what must hold is what is written.
func TestScale(t *testing.T) {
	sizes := []int{200}
	if os.Getenv("PORTICO_LONG") != "" {
		sizes = []int{1000, 10000}
	}
	alone(t, func(t *testing.T, variant string) {
		for _, n := range sizes {
			b := open(t, variant)
			var all []*routing.Frontend
			for i := range n {
				all = append(all, frontend(i, routing.ClusterIP, backendsOf(10, 10*i)...))
			}
			s := backendtest.State(all...)
			begun, used := time.Now(), cpu(t)
			if err := b.Sync(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d Services: first sync %v, CPU %v", n, time.Since(begun).Round(time.Millisecond), (cpu(t) - used).Round(time.Millisecond))
			for _, size := range []int{9, 10} {
				changed := frontend(n/2, routing.ClusterIP, backendsOf(size, 5*n)...)
				begun, used = time.Now(), cpu(t)
				if err := b.Apply(t.Context(), routing.Change{Set: []*routing.Frontend{changed}}); err != nil {
					t.Fatal(err)
				}
				t.Logf("%d Services: one endpoint %v, CPU %v", n, time.Since(begun).Round(time.Microsecond), (cpu(t) - used).Round(time.Microsecond))
			}
			backendtest.Verify(t, b, s)
			begun, used = time.Now(), cpu(t)
			again := open(t, variant)
			if err := again.Sync(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d Services: restart %v, CPU %v", n, time.Since(begun).Round(time.Millisecond), (cpu(t) - used).Round(time.Millisecond))
			begun = time.Now()
			if err := b.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d Services: cleanup %v", n, time.Since(begun).Round(time.Millisecond))
		}
	})
}

// DP-17, DP-18, DP-19, DP-21: a restart adopts what it finds and writes nothing; damage is told and repaired;
// others' rules, and chains that only look like ours, stay; cleanup leaves nothing.
func TestAdoptsAndRepairs(t *testing.T) {
	alone(t, func(t *testing.T, variant string) {
		tool := "iptables-" + variant
		saved := func() string {
			var out []string
			for _, table := range tableNames {
				for line := range strings.Lines(run(t, tool+"-save", "-t", table)) {
					if strings.HasPrefix(line, "-") || strings.HasPrefix(line, ":"+prefix) {
						before, _, _ := strings.Cut(line, "[")
						out = append(out, table+" "+before)
					}
				}
			}
			slices.Sort(out)
			return strings.Join(out, "")
		}
		run(t, tool, "-t", "nat", "-N", "PORTICO-MINE")
		run(t, tool, "-t", "nat", "-A", "PREROUTING", "-j", "PORTICO-MINE")
		run(t, tool, "-A", "FORWARD", "-s", "203.0.113.0/24", "-j", "DROP")
		foreign := saved()
		sticky := frontend(3, routing.LoadBalancerIP, backendsOf(5, 30)...)
		sticky.Affinity, sticky.SourceRanges = time.Hour, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26")}
		local := frontend(4, routing.NodePort, backendsOf(5, 40)...)
		local.Verdicts[routing.Outside].Action = routing.Drop
		s := backendtest.State(
			frontend(1, routing.ClusterIP, backendsOf(3, 10)...), frontend(2, routing.ClusterIP), sticky, local,
			frontend(5, routing.ExternalIP, backendsOf(100, 100)...),
		)
		b := open(t, variant)
		backendtest.Sync(t, b, s)
		whole := saved()
		again := open(t, variant)
		for i, v6 := range []bool{false, true} {
			r := newReading()
			if err := again.programs.read(t.Context(), v6, r); err != nil {
				t.Fatal(err)
			}
			f, err := again.plan(v6, s, r)
			if err != nil {
				t.Fatal(err)
			}
			if u := f.updates(); len(u) > 0 || len(r.misplaced()) > 0 {
				t.Errorf("family %d: a restart would rewrite %v, and move the jumps %v", i, u, r.misplaced())
			}
		}
		for _, damage := range [][]string{
			{"-t", "nat", "-F", preChain},
			{"-t", "nat", "-D", "PREROUTING", "-j", preChain},
			{"-t", "nat", "-I", "PREROUTING", "-s", "198.51.100.1", "-j", "ACCEPT"}, // ours are first
			{"-t", "filter", "-A", checkChain, "-j", "ACCEPT"},
			{"-t", "nat", "-N", setPrefix + "aaaaaaaaaaaa"},
		} {
			run(t, append([]string{tool}, damage...)...)
			words, err := b.Verify(t.Context(), s)
			if err != nil || len(words) == 0 {
				t.Errorf("%v: Verify says nothing (%v)", damage, err)
			}
			if damage[2] != "-I" {
				select {
				case <-b.Disturbed():
				case <-time.After(10 * time.Second):
					t.Errorf("%v: nobody noticed", damage)
				}
			}
			backendtest.Sync(t, b, s)
		}
		run(t, tool, "-t", "nat", "-D", "PREROUTING", "-s", "198.51.100.1", "-j", "ACCEPT")
		if now := saved(); now != whole {
			t.Errorf("after the repairs there is\n%s, before\n%s", now, whole)
		}
		if err := b.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := saved(); left != foreign {
			t.Errorf("after cleanup there is\n%s, want\n%s", left, foreign)
		}
		if words, err := Remains(t.Context()); err != nil || len(words) > 0 {
			t.Errorf("remains: %v, %v", words, err)
		}
	})
}

// A change of our own wakes nobody.
func TestOwnChangesAreNoNews(t *testing.T) {
	alone(t, func(t *testing.T, variant string) {
		b := open(t, variant)
		s := backendtest.State(frontend(1, routing.ClusterIP, backendsOf(3, 10)...))
		backendtest.Sync(t, b, s)
		for n := range 20 {
			if err := b.Apply(t.Context(), routing.Change{Set: []*routing.Frontend{frontend(1, routing.ClusterIP, backendsOf(n, 10)...)}}); err != nil {
				t.Fatal(err)
			}
		}
		b.watch.mu.Lock()
		if variant == Legacy && b.watch.sizes != b.watch.measure() {
			t.Error("the next look will take its own change for a foreign one")
		}
		b.watch.mu.Unlock()
		select {
		case <-b.Disturbed():
			t.Error("its own change woke it")
		default:
		}
		run(t, "iptables-"+variant, "-t", "nat", "-F", preChain)
		select {
		case <-b.Disturbed():
		case <-time.After(10 * time.Second):
			t.Error("a foreign change didn't")
		}
	})
}

// DP-21: a set of 5,000 backends is written, read back and taken away.
func TestManyBackends(t *testing.T) {
	alone(t, func(t *testing.T, variant string) {
		b := open(t, variant)
		backendtest.Sync(t, b, backendtest.State(frontend(1, routing.ClusterIP, backendsOf(5000, 1)...), frontend(2, routing.ClusterIP, backendsOf(2, 1)...)))
		if err := b.Apply(t.Context(), routing.Change{Set: []*routing.Frontend{frontend(1, routing.ClusterIP, backendsOf(4999, 1)...)}}); err != nil {
			t.Fatal(err)
		}
		small := backendtest.State(frontend(1, routing.ClusterIP), frontend(2, routing.ClusterIP, backendsOf(2, 1)...))
		if err := b.Apply(t.Context(), routing.Change{Set: small.Frontends}); err != nil {
			t.Fatal(err)
		}
		backendtest.Verify(t, b, small)
	})
}

// Bad input: a lock that another program holds for long is one clear error, nothing waits
// for ever, and once it is released all that came meanwhile is in the kernel.
func TestLocked(t *testing.T) {
	alone(t, func(t *testing.T, variant string) {
		if variant != Legacy {
			t.Skip("the nf_tables variant has no lock")
		}
		b := open(t, variant)
		b.programs.wait = "1"
		gone := frontend(9, routing.ClusterIP, backendsOf(1, 90)...)
		gone.Protocol = catalog.UDP
		first := backendtest.State(frontend(1, routing.ClusterIP, backendsOf(3, 10)...), gone)
		backendtest.Sync(t, b, first)
		lock, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		wanted := backendtest.State(frontend(1, routing.ClusterIP, backendsOf(2, 10)...), frontend(2, routing.ClusterIP, backendsOf(3, 10)...))
		if err := b.Apply(t.Context(), routing.Change{Set: wanted.Frontends}); !errors.Is(err, errLocked) {
			t.Errorf("want the lock named, got %v", err)
		}
		backendtest.Verify(t, b, first) // it is read, and serves
		if err := b.Sync(t.Context(), wanted); !errors.Is(err, errLocked) {
			t.Errorf("want the lock named, got %v", err)
		}
		b.programs.wait = "3600"
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := b.Sync(ctx, wanted); err == nil {
			t.Error("a Sync that was called off succeeded")
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		backendtest.Sync(t, b, wanted)
		if !b.flows.Left(gone.Key) {
			t.Error("flows of a frontend that left meanwhile go on")
		}
	})
}

// Bad input: a rule of others that leads to a chain of ours keeps the kernel from taking the
// chain away. Nothing else may wait for that, and cleanup says it.
func TestForeignJumps(t *testing.T) {
	alone(t, func(t *testing.T, variant string) {
		tool := "iptables-" + variant
		b := open(t, variant)
		gone := frontend(1, routing.ClusterIP, backendsOf(3, 10)...)
		backendtest.Sync(t, b, backendtest.State(gone))
		set := target(gone, false)
		run(t, tool, "-t", "nat", "-A", "PREROUTING", "-s", "203.0.113.9", "-j", set)
		two := frontend(2, routing.ClusterIP, backendsOf(3, 20)...)
		if err := b.Apply(t.Context(), routing.Change{Removed: []routing.Key{gone.Key}, Set: []*routing.Frontend{two}}); err == nil {
			t.Error("the kernel took a chain away that is led to")
		}
		backendtest.Sync(t, b, backendtest.State(two))
		backendtest.Sync(t, b, backendtest.State(two))
		if rules := run(t, tool, "-t", "nat", "-S", set); strings.Contains(rules, "-A") {
			t.Errorf("the spared chain has rules: %s", rules)
		}
		three := frontend(3, routing.ClusterIP, backendsOf(3, 30)...)
		if err := b.Apply(t.Context(), routing.Change{Removed: []routing.Key{two.Key}, Set: []*routing.Frontend{three}}); err != nil {
			t.Error(err)
		}
		backendtest.Verify(t, b, backendtest.State(three))
		if err := b.Cleanup(t.Context()); err == nil || !strings.Contains(err.Error(), "rules of others lead to nat "+set) {
			t.Errorf("cleanup: %v", err)
		}
		run(t, tool, "-t", "nat", "-D", "PREROUTING", "-s", "203.0.113.9", "-j", set)
		if err := b.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
		if words, err := Remains(t.Context()); err != nil || len(words) > 0 {
			t.Errorf("remains: %v, %v", words, err)
		}
	})
}

func TestMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := Missing(); err != nil {
		t.Error(err)
	}
	p, err := choose(t.Context(), here)
	if err != nil {
		t.Skip(err)
	}
	p.attr = func() *syscall.SysProcAttr { return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET} }
	kept := trials
	defer func() { trials = kept }()
	trials = append(slices.Clone(trials), trial{"xt_nothing", nat, "-m nothing"})
	if err := p.lacks(t.Context(), false); err == nil || !strings.Contains(err.Error(), "xt_nothing") {
		t.Errorf("want xt_nothing named, got %v", err)
	}
}
