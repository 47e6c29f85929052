package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/backendtest"
)

// inNamespace has a test in a network namespace of its own. Its thread ends with it.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// alone has it where the kernel has IPVS, too: test/ipvs runs this package in a guest that
// does.
func alone(t *testing.T) {
	t.Helper()
	inNamespace(t)
	w, err := dial()
	if errors.Is(err, errNoIPVS) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.close() //nolint:errcheck // it was only asked
}

func open(t *testing.T, change func(*Config)) *Backend {
	t.Helper()
	cfg := Config{
		Workloads: []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:245::/48")},
		Addresses: []netip.Addr{addr("10.244.0.1"), addr("fd00:10:244::1")}, MarkBit: 14,
	}
	if change != nil {
		change(&cfg)
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() }) //nolint:errcheck // the test is over
	if err := b.router.raise(); err != nil {
		t.Fatal(err)
	}
	return b
}

// story is a state that uses everything.
func story() dataplane.State {
	web := frontend(routing.ClusterIP, "10.96.0.20", 80, routing.ToCluster, routing.ToCluster)
	node := frontend(routing.NodePort, "0.0.0.0", 30080, routing.ToCluster, routing.ToLocal)
	lb := frontend(routing.LoadBalancerIP, "198.51.100.2", 80, routing.ToCluster, routing.ToCluster)
	lb.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26")}
	shut := frontend(routing.ClusterIP, "10.96.0.21", 80, routing.Reject, routing.Drop)
	shut.Service.Name = "shut"
	six := frontend(routing.ClusterIP, "fd00:10:96::20", 80, routing.ToCluster, routing.ToCluster)
	six.Affinity = time.Minute
	six.Sets = &routing.Sets{Cluster: []routing.Backend{{AddrPort: at("[fd00:10:245::2]:8080"), Local: true, Ready: true, Serving: true}}}
	return backendtest.State(web, node, lb, shut, six)
}

// counting counts what is written.
type counting struct {
	writer
	n int
}

func (c *counting) write(all []request) ([]refusal, error) {
	c.n += len(all)
	return c.writer.write(all)
}

// order has the kernel carry out requests, as somebody else would.
func order(b *Backend, all ...request) error {
	refused, err := b.wire.write(all)
	for _, r := range refused {
		err = errors.Join(err, r.err)
	}
	return err
}

// A batch is carried out but for what is refused, and each refusal is about its own request,
// also when all are.
func TestBatch(t *testing.T) {
	alone(t)
	b := open(t, nil)
	web := tcp("10.96.0.20:80")
	mixed := []request{
		{cmd: cmdNewService, key: web, definition: definition{scheduler: "rr"}},
		{cmd: cmdNewDest, key: tcp("10.96.0.21:80"), at: here.AddrPort, weight: 1},
		{cmd: cmdNewDest, key: web, at: here.AddrPort, weight: 1},
		{cmd: cmdSetDest, key: web, at: there.AddrPort, weight: 1},
	}
	refused, err := b.wire.write(mixed)
	if err != nil || len(refused) != 2 || refused[0].request != mixed[1] || refused[1].request != mixed[3] ||
		!errors.Is(refused[0].err, unix.ESRCH) || !errors.Is(refused[1].err, unix.ENOENT) {
		t.Errorf("refused: %v, %v", refused, err)
	}
	all, err := b.wire.all(func(key) bool { return true })
	if err != nil || len(all) != 1 || all[web] == nil || all[web].backends[here.AddrPort].weight != 1 {
		t.Errorf("the kernel has %v, %v", all, err)
	}
	bad := make([]request, batchMost)
	for i := range bad {
		bad[i] = request{cmd: cmdDelDest, key: web, at: netip.AddrPortFrom(there.Addr(), uint16(i+1))}
	}
	refused, err = b.wire.write(bad)
	if err != nil || len(refused) != len(bad) || refused[len(bad)-1].request != bad[len(bad)-1] {
		t.Errorf("%d of %d were refused, %v", len(refused), len(bad), err)
	}
}

// DP-18: a start finds what an earlier run has left, and writes what differs; what nobody
// wants any more goes.
func TestAdopt(t *testing.T) {
	alone(t)
	s := story()
	b := open(t, nil)
	backendtest.Sync(t, b, s)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, nil)
	c := &counting{writer: again.servers.to}
	again.servers.to = c
	backendtest.Sync(t, again, s)
	if c.n != 0 {
		t.Errorf("the same state wrote %d changes of virtual servers", c.n)
	}
	s.Frontends = s.Frontends[:1]
	backendtest.Sync(t, again, s)
	gone(t, again, tcp("192.0.2.1:30080"))
	backendtest.Verify(t, again, s)
	if err := again.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := Remains(); err != nil || len(left) > 0 {
		t.Errorf("after the cleanup: %q, %v", left, err)
	}
	if left, err := again.wire.servers(); err != nil || len(left) > 0 {
		t.Errorf("virtual servers after the cleanup: %v, %v", left, err)
	}
	if raw, err := os.ReadFile(sysctlDir + "conntrack"); err != nil || strings.TrimSpace(string(raw)) != "0" {
		t.Errorf("net.ipv4.vs.conntrack is %q after the cleanup, %v", raw, err)
	}
}

// patience is for a look, which comes seldom where the last one took long: on a busy machine
// that emulates the processor, say.
const patience = 5 * time.Minute

// gone waits until the kernel has no such virtual server: those that leave go at a look.
func gone(t *testing.T, b *Backend, k key) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		all, err := b.wire.servers()
		if err != nil {
			t.Fatal(err)
		}
		if all[k] == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the virtual server %s is still there", k)
		}
	}
}

// Virtual servers of others stay as they are: at addresses that no Service has, in excluded
// ranges, and at a Service's own address.
func TestForeign(t *testing.T) {
	alone(t)
	b := open(t, func(c *Config) { c.Exclude = []netip.Prefix{netip.MustParsePrefix("10.96.0.32/28")} })
	foreign := []key{tcp("203.0.113.1:80"), tcp("10.96.0.40:80"), tcp("198.51.100.2:80"), tcp("192.0.2.1:30080")}
	for _, k := range foreign {
		if err := order(
			b, request{cmd: cmdNewService, key: k, definition: definition{scheduler: "wlc"}},
			request{cmd: cmdNewDest, key: k, at: at("192.0.2.7:80"), weight: 3},
		); err != nil {
			t.Fatal(err)
		}
	}
	stale := tcp("10.96.0.99:80") // of the cluster's own range: somebody's before us
	if err := order(b, request{cmd: cmdNewService, key: stale, definition: definition{scheduler: "wlc"}}); err != nil {
		t.Fatal(err)
	}
	backendtest.Sync(t, b, story())
	gone(t, b, stale)
	if err := b.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := b.wire.all(func(key) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range foreign {
		if s := all[k]; s == nil || s.scheduler != "wlc" || s.backends[at("192.0.2.7:80")].weight != 3 || len(s.backends) != 1 {
			t.Errorf("the foreign virtual server %s is now %+v", k, s)
		}
	}
	if len(all) != len(foreign) {
		t.Errorf("left are %v, want the foreign ones alone", all)
	}
}

// DP-19: what somebody else changes is noticed, and mended by the next Sync.
func TestRepair(t *testing.T) {
	alone(t)
	b := open(t, nil)
	s := story()
	backendtest.Sync(t, b, s)
	web := tcp("10.96.0.20:80")
	by := func(r request) func() error { return func() error { return order(b, r) } }
	for name, harm := range map[string]func() error{
		"a virtual server deleted": by(request{cmd: cmdDelService, key: web}),
		"a backend deleted":        by(request{cmd: cmdDelDest, key: web, at: here.AddrPort}),
		"a weight":                 by(request{cmd: cmdSetDest, key: web, at: here.AddrPort, weight: 7}),
		"a scheduler":              by(request{cmd: cmdSetService, key: web, definition: definition{scheduler: "lc"}}),
		"a backend added":          by(request{cmd: cmdNewDest, key: web, at: at("192.0.2.66:1"), weight: 1}),
		"no routing rules":         b.router.remove,
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if words, err := b.Verify(t.Context(), s); err != nil || len(words) == 0 {
			t.Errorf("%s: nothing differs, %v", name, err)
		}
		select {
		case <-b.Disturbed():
		case <-time.After(patience):
			t.Errorf("%s: not noticed", name)
		}
		backendtest.Sync(t, b, s)
	}
}

// Each scheduler that the guest's kernel has serves; the one that it lacks falls back.
func TestSchedulers(t *testing.T) {
	alone(t)
	var lacking atomic.Int32
	b := open(t, func(c *Config) {
		c.Lacking = func(types.NamespacedName, types.UID, string) { lacking.Add(1) }
	})
	backendtest.Sync(t, b, backendtest.State())
	names := append(catalog.Schedulers(), "")
	for i, name := range names {
		f := frontend(routing.ClusterIP, "10.96.1.1", uint16(100+i), routing.ToCluster, routing.ToCluster)
		f.PortName, f.Scheduler = "p"+name, name
		if err := b.Apply(t.Context(), routing.Change{Set: []*routing.Frontend{f}}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		have, err := b.wire.servers()
		k := key{netip.AddrPortFrom(f.Addr, f.Port), f.Protocol}
		if err != nil || have[k] == nil {
			t.Fatalf("%s: no virtual server, %v", name, err)
		}
		want := name
		if name == "" || !b.servers.schedulers[name] {
			want = DefaultScheduler
		}
		if have[k].scheduler != want {
			t.Errorf("%q: the kernel has %q", name, have[k].scheduler)
		}
	}
	missing := 0
	for _, has := range b.servers.schedulers {
		if !has {
			missing++
		}
	}
	if int(lacking.Load()) != missing || missing > 1 {
		t.Errorf("%d Services were told that their scheduler is missing, and of %v %d are", lacking.Load(), b.servers.schedulers, missing)
	}
}

// What is shown is what was planned.
func TestContents(t *testing.T) {
	alone(t)
	b := open(t, nil)
	backendtest.Sync(t, b, story())
	r, err := OpenReader(Config{MarkBit: 14})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // it was only asked
	c, err := r.Contents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range c.Frontends {
		got = append(got, fmt.Sprintf("%s %s %s %d %s %d %s %v", f.Kind, f.Key, f.Inside.Action, f.Inside.Count, f.Outside.Action, f.Outside.Count, f.Affinity, f.Admitted))
	}
	want := []string{
		"nodePort TCP *:30080 cluster 2 local 1 0s []",
		"clusterIP TCP 10.96.0.20:80 cluster 2 cluster 2 0s []",
		"clusterIP TCP 10.96.0.21:80 reject 0 drop 0 0s []",
		"loadBalancerIP TCP 198.51.100.2:80 cluster 2 cluster 2 0s [192.0.2.0/26 198.51.100.2/32]",
		"clusterIP TCP [fd00:10:96::20]:80 cluster 1 cluster 1 1m0s []",
	}
	if !slices.Equal(got, want) {
		t.Errorf("shown:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(c.Tables) != 2 || len(c.Services) != 2 || !slices.Equal(c.Workloads, b.cfg.Workloads) || !slices.Equal(c.NodeAddresses, []netip.Addr{addr("192.0.2.1")}) {
		t.Errorf("tables %q, ranges %v, workloads %v, node addresses %v", c.Tables, c.Services, c.Workloads, c.NodeAddresses)
	}
	site := dataplane.Site{Workloads: b.cfg.Workloads, Own: b.cfg.Addresses}
	if words, err := r.Verify(t.Context(), site, story()); err != nil || len(words) > 0 {
		t.Errorf("verify: %q, %v", words, err)
	}
}

// The workloads' ranges are read out of the rules that the kernel has, IPVS or not.
func TestWorkloads(t *testing.T) {
	inNamespace(t)
	all, err := openTables()
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close() //nolint:errcheck // the test is over
	want := []netip.Prefix{
		netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("172.20.4.0/22"),
		netip.MustParsePrefix("fd00:10:245::/48"), netip.MustParsePrefix("fd00:10:250::7/128"),
	}
	s := &site{
		workloads: []netip.Prefix{want[1], want[3], want[0], want[2]}, services: backendtest.State().ServiceRanges, mark: 1 << 14,
		hairpin: [2]netip.Addr{addr("10.244.0.1"), addr("fd00:10:244::1")},
	}
	if err := all.replace(s, nil); err != nil {
		t.Fatal(err)
	}
	var got []netip.Prefix
	for _, f := range all.families {
		some, err := all.workloads(f)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, some...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Debian 12's nft must list what we install: one rule that it can't print breaks the whole
// list of a user's rules.
func TestListable(t *testing.T) {
	alone(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	backendtest.Sync(t, open(t, nil), story())
	for _, args := range [][]string{{"list", "ruleset"}, {"-j", "list", "ruleset"}} {
		if out, err := exec.Command("nft", args...).CombinedOutput(); err != nil || !strings.Contains(string(out), Table) {
			t.Errorf("nft %v: %v: %s", args, err, out)
		}
	}
}

// DP-20: the first sync, and one endpoint's change. The figures are logged; what must hold
// is what is written.
func TestScale(t *testing.T) {
	alone(t)
	sizes := []int{100}
	if os.Getenv("PORTICO_LONG") != "" {
		sizes = []int{1000, 10000}
	}
	for _, n := range sizes {
		b := open(t, nil)
		c := &counting{writer: b.servers.to}
		b.servers.to = c
		var all []*routing.Frontend
		for i := range n {
			f := frontend(routing.ClusterIP, netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), 80, routing.ToCluster, routing.ToCluster)
			f.Service.Name, f.Sets = fmt.Sprint("s", i), &routing.Sets{}
			for j := range 10 {
				at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 245, byte((10*i + j) >> 8), byte(10*i + j)}), 8080)
				f.Cluster = append(f.Cluster, routing.Backend{AddrPort: at, Local: true, Ready: true, Serving: true})
			}
			all = append(all, f)
		}
		begun := time.Now()
		if err := b.Sync(t.Context(), backendtest.State(all...)); err != nil {
			t.Fatal(err)
		}
		first := time.Since(begun)
		var took []time.Duration
		for i := range 11 {
			f := *all[i]
			f.Sets = &routing.Sets{Cluster: f.Cluster[1:]}
			c.n, begun = 0, time.Now()
			if err := b.Apply(t.Context(), routing.Change{Set: []*routing.Frontend{&f}}); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begun))
			if c.n != 1 {
				t.Errorf("one endpoint less wrote %d changes of virtual servers", c.n)
			}
		}
		slices.Sort(took)
		begun = time.Now()
		if _, err := b.eye.all(func(key) bool { return true }); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d Services with 10 endpoints: first sync %v, one endpoint %v, a look %v", n, first, took[len(took)/2], time.Since(begun))
		if err := b.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Close() //nolint:errcheck // the next has its own
	}
}

// Changes keep the books right: what is planned step by step is what a Sync would plan.
func TestChanges(t *testing.T) {
	alone(t)
	b := open(t, nil)
	s := story()
	backendtest.Sync(t, b, backendtest.State())
	apply := func(c routing.Change) {
		t.Helper()
		if err := b.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := b.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range s.Frontends {
		apply(routing.Change{Set: []*routing.Frontend{f}})
		part := s
		part.Frontends = s.Frontends[:i+1]
		backendtest.Verify(t, b, part)
	}
	sticky := *s.Frontends[1]
	sticky.Affinity = time.Minute
	apply(routing.Change{Set: []*routing.Frontend{&sticky}})
	s.Frontends[1] = &sticky
	backendtest.Verify(t, b, s)
	s.NodeAddresses = []netip.Addr{addr("192.0.2.77"), addr("198.51.100.2")}
	if err := b.SetNodeAddresses(t.Context(), s.NodeAddresses); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, b, s)
	for len(s.Frontends) > 0 {
		apply(routing.Change{Removed: []routing.Key{s.Frontends[0].Key}})
		s.Frontends = slices.Delete(s.Frontends, 0, 1)
		backendtest.Verify(t, b, s)
	}
	gone(t, b, tcp("10.96.0.20:80"))
	backendtest.Verify(t, b, s)
}
