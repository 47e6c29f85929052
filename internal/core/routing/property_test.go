package routing

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

var seed = flag.Uint64("seed", 0, "the seed of TestAnyOrderOfEvents; 0: a new one")

// event is a new version of a Service or a slice; nil: it is gone.
type event struct {
	name    types.NamespacedName
	service *catalog.Service
	slice   *catalog.Slice
	ofSlice bool
}

func (e event) String() string {
	switch {
	case e.service != nil:
		return fmt.Sprintf("Service %s, created %s, at %v and %v, node ports %v", e.name, e.service.Created.Format("15:04"), e.service.ClusterIPs, e.service.ExternalIPs, e.service.Ports)
	case e.slice != nil:
		var list []string
		for _, p := range e.slice.Endpoints {
			list = append(list, fmt.Sprintf("%s@%s ready=%v terminating=%v", p.Addr, p.Node, p.Ready, p.Terminating))
		}
		return fmt.Sprintf("slice %s of %s: %s", e.name, e.slice.Service, strings.Join(list, ", "))
	case e.ofSlice:
		return fmt.Sprintf("slice %s is deleted", e.name)
	}
	return fmt.Sprintf("Service %s is deleted", e.name)
}

// model follows events as an agent does: it keeps the last version of each object,
// computes the Services that an event concerns and puts them into one table, whose
// changes a pretended kernel carries out.
type model struct {
	services map[types.NamespacedName]*catalog.Service
	slices   map[types.NamespacedName]*catalog.Slice
	computer Computer
	table    *Table
	kernel   map[Key]*Frontend
}

func newModel() *model {
	return &model{
		services: map[types.NamespacedName]*catalog.Service{}, slices: map[types.NamespacedName]*catalog.Slice{},
		table: NewTable(), kernel: map[Key]*Frontend{},
	}
}

func (m *model) of(name types.NamespacedName) (out []*catalog.Slice) {
	for _, s := range m.slices {
		if s.Service == name {
			out = append(out, s)
		}
	}
	return out
}

// take does what one event asks, and checks that the Change was no more than that.
func (m *model) take(e event) error {
	concerned := map[types.NamespacedName]bool{}
	if e.ofSlice {
		for _, s := range []*catalog.Slice{m.slices[e.name], e.slice} {
			if s != nil {
				concerned[s.Service] = true
			}
		}
		if delete(m.slices, e.name); e.slice != nil {
			m.slices[e.name] = e.slice
		}
	} else {
		concerned[e.name] = true
		if delete(m.services, e.name); e.service != nil {
			m.services[e.name] = e.service
		}
	}
	for name := range concerned {
		change := m.table.Put(name, m.computer.Compute(benchNode, m.services[name], m.of(name)))
		for _, f := range change.Set {
			if old := m.kernel[f.Key]; old != nil && old.Equal(f) {
				return fmt.Errorf("%s is set although it didn't change", f.Key)
			}
			m.kernel[f.Key] = f
		}
		for _, key := range change.Removed {
			if m.kernel[key] == nil {
				return fmt.Errorf("%s is removed although it isn't there", key)
			}
			delete(m.kernel, key)
		}
	}
	return nil
}

// check compares with what is computed from the last versions alone, in any order.
func (m *model) check() error {
	fresh := NewTable()
	for name, svc := range m.services {
		fresh.Put(name, Compute(benchNode, svc, m.of(name)))
	}
	for _, have := range []struct {
		who string
		all map[Key]*Frontend
	}{{"table", m.table.owners}, {"kernel", m.kernel}} {
		for key, f := range fresh.owners {
			if got := have.all[key]; got == nil || !got.Equal(f) {
				return fmt.Errorf("the %s has for %s\n%sand not\n%s", have.who, key, formatOne(got), formatOne(f))
			}
		}
		for key, f := range have.all {
			if fresh.owners[key] == nil {
				return fmt.Errorf("the %s has for %s\n%salthough there is none", have.who, key, formatOne(f))
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(claimants(m.table.contested))), slices.Sorted(maps.Keys(claimants(fresh.contested))); !slices.Equal(got, want) {
		return fmt.Errorf("contested are %v and not %v", got, want)
	}
	return nil
}

// claimants makes claims comparable: a key and who claims it, the best first.
func claimants(claims map[Key][]*Frontend) map[string]bool {
	out := map[string]bool{}
	for key, list := range claims {
		text := key.String()
		for _, f := range list {
			text += " " + f.Service.String()
		}
		out[text] = true
	}
	return out
}

func formatOne(f *Frontend) string {
	if f == nil {
		return "nothing\n"
	}
	return Format([]Frontend{*f})
}

// play gives the first contradiction of some events.
func play(events []event) error {
	m := newModel()
	for i, e := range events {
		if err := m.take(e); err != nil {
			return fmt.Errorf("event %d: %w", i+1, err)
		}
		if err := m.check(); err != nil {
			return fmt.Errorf("after event %d: %w", i+1, err)
		}
	}
	return nil
}

// shrink leaves away events as long as something is wrong: halves first, in the end
// single ones.
func shrink(events []event, wrong func([]event) bool) []event {
	for size := len(events) / 2; size > 0; {
		smaller := false
		for at := 0; at+size <= len(events); {
			if try := slices.Delete(slices.Clone(events), at, at+size); wrong(try) {
				events, smaller = try, true
			} else {
				at += size
			}
		}
		if !smaller || size > 1 {
			size /= 2
		}
	}
	return events
}

// random makes events of a few objects that meet often: Services that share addresses
// and node ports and are made anew with the same name, slices that change hands, and
// endpoints that stand in several slices at once.
func random(r *rand.Rand, n int) (out []event) {
	name := func(kind string, n int) types.NamespacedName {
		return types.NamespacedName{Namespace: "default", Name: fmt.Sprint(kind, r.IntN(n))}
	}
	for len(out) < n {
		switch k := r.IntN(10); {
		case k == 0 && len(out) > 0: // the same again
			out = append(out, out[r.IntN(len(out))])
		case k == 1:
			out = append(out, event{name: name("service", 4)})
		case k == 2:
			out = append(out, event{name: name("slice", 6), ofSlice: true})
		case k < 6:
			s := randomService(r, name("service", 4))
			out = append(out, event{name: s.Name, service: s})
		default:
			s := randomSlice(r, name("slice", 6), name("service", 4))
			out = append(out, event{name: s.Name, slice: s, ofSlice: true})
		}
	}
	return out
}

func randomService(r *rand.Rand, name types.NamespacedName) *catalog.Service {
	v4 := func(third byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, third, byte(r.IntN(3))}) }
	s := &catalog.Service{
		Name: name, UID: types.UID(fmt.Sprint(r.IntN(3))), Created: day.Add(time.Duration(r.IntN(3)) * time.Minute), Type: corev1.ServiceTypeLoadBalancer,
		ClusterIPs:    []netip.Addr{v4(0), netip.MustParseAddr(fmt.Sprintf("fd00::%d", r.IntN(3)))}[:1+r.IntN(2)],
		ExternalLocal: r.IntN(2) == 0, InternalLocal: r.IntN(4) == 0, Foreign: r.IntN(10) == 0, Headless: r.IntN(10) == 0,
	}
	for range r.IntN(3) {
		s.ExternalIPs = append(s.ExternalIPs, v4(byte(r.IntN(2))))
		s.Ingress = append(s.Ingress, catalog.Ingress{IP: v4(1), Proxy: r.IntN(5) == 0})
	}
	for i := range r.IntN(3) {
		s.Ports = append(s.Ports, catalog.ServicePort{Name: fmt.Sprint("p", i), Protocol: catalog.TCP, Port: uint16(80 + i), NodePort: uint16(r.IntN(3))})
	}
	if r.IntN(8) == 0 {
		s.TopologyKeys = []string{corev1.LabelTopologyZone, "*"}[:1+r.IntN(2)]
	}
	return s
}

func randomSlice(r *rand.Rand, name, service types.NamespacedName) *catalog.Slice {
	s := &catalog.Slice{Name: name, Service: service, IPv6: r.IntN(4) == 0}
	for i := range 1 + r.IntN(2) {
		s.Ports = append(s.Ports, catalog.SlicePort{Name: fmt.Sprint("p", i), Protocol: catalog.TCP, Port: uint16(8080 + r.IntN(2))})
	}
	for range r.IntN(5) {
		e := catalog.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(6))}), Node: []string{"", benchNode.Name, "node-b"}[r.IntN(3)], Zone: []string{"", "zone-1", "zone-2"}[r.IntN(3)],
			Ready: r.IntN(2) == 0, Serving: r.IntN(2) == 0, Terminating: r.IntN(3) == 0,
		}
		if s.IPv6 {
			e.Addr = netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", r.IntN(6)))
		}
		if r.IntN(2) == 0 {
			e.ZoneHints = []string{"zone-1"}
			e.NodeHints = []string{benchNode.Name}[:r.IntN(2)]
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// Whatever order objects come, change and go in, and however often they are told: the
// table is what the objects that there are give by themselves, and the changes have
// brought the kernel there. What fails is reduced to the events that it takes.
func TestAnyOrderOfEvents(t *testing.T) {
	rounds := 60
	if os.Getenv("PORTICO_LONG") != "" {
		rounds = 5000
	}
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	for round := range uint64(rounds) {
		events := random(rand.New(rand.NewPCG(first, round)), 60)
		err := play(events)
		if err == nil {
			err = permuted(events, rand.New(rand.NewPCG(first, round+1)))
		}
		if err != nil {
			events = shrink(events, func(e []event) bool { return play(e) != nil })
			var text strings.Builder
			for i, e := range events {
				fmt.Fprintf(&text, "%d %s\n", i+1, e)
			}
			t.Fatalf("-seed %d, round %d: %v\nit takes\n%s%v", first, round, err, text.String(), play(events))
		}
		if *seed != 0 && testing.Verbose() {
			t.Logf("round %d is right", round)
		}
	}
}

// permuted tells the last versions of all objects in two orders, one of them twice,
// and compares the tables.
func permuted(events []event, r *rand.Rand) error {
	last := map[string]event{}
	for _, e := range events {
		last[fmt.Sprint(e.ofSlice, e.name)] = e
	}
	var tables [2]string
	for i := range tables {
		order := slices.Collect(maps.Values(last))
		slices.SortFunc(order, func(a, b event) int { return strings.Compare(a.String(), b.String()) })
		if i == 1 {
			order = append(order, order...)
		}
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		m := newModel()
		for _, e := range order {
			if err := m.take(e); err != nil {
				return err
			}
		}
		var lines []string
		for f := range m.table.All() {
			lines = append(lines, formatOne(f))
		}
		slices.Sort(lines)
		tables[i] = strings.Join(lines, "")
	}
	if tables[0] != tables[1] {
		return fmt.Errorf("two orders of the same objects gave two tables:\n%s\nand\n%s", tables[0], tables[1])
	}
	return nil
}

// The reduction finds the two events of sixty that matter.
func TestShrink(t *testing.T) {
	events := random(rand.New(rand.NewPCG(1, 1)), 60)
	events[7], events[50] = event{name: types.NamespacedName{Name: "a"}}, event{name: types.NamespacedName{Name: "b"}}
	got := shrink(events, func(e []event) bool {
		a := slices.IndexFunc(e, func(e event) bool { return e.name.Name == "a" })
		b := slices.IndexFunc(e, func(e event) bool { return e.name.Name == "b" })
		return a >= 0 && b > a
	})
	if len(got) != 2 || got[0].name.Name != "a" || got[1].name.Name != "b" {
		t.Errorf("got %v", got)
	}
}
