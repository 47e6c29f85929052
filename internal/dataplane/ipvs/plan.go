package ipvs

import (
	"cmp"
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// port is one port of a Service in one family. Its frontends are planned together, because
// some of them are led to the virtual server of another.
type servicePort struct {
	service  types.NamespacedName
	name     string
	protocol catalog.Protocol
	v6       bool
}

func portOf(f *routing.Frontend) servicePort {
	return servicePort{f.Service, f.PortName, f.Protocol, f.Addr.Is6()}
}

// wanted is a virtual server as it should be.
type wanted struct {
	definition
	service types.NamespacedName
	uid     types.UID
	set     []routing.Backend // those that get new connections
	known   *routing.Sets     // and those of which the Service port knows besides
}

// fact is an element of a set of ours, or a route. Several frontends may need the same one.
type fact struct {
	set   set
	v6    bool
	key   string
	value string // of a map: where it leads; of a range: its last key
}

// planner knows what is wanted. It is pure: kernel.go and tables.go carry out.
type planner struct {
	scheduler string         // of Services that name none
	excluded  []netip.Prefix // where virtual servers are others'
	nodes     []netip.Addr
	services  []netip.Prefix // the ranges of cluster IPs, which have a route as a whole

	foreign   map[key]bool // others' virtual servers
	frontends map[routing.Key]*routing.Frontend
	ports     map[servicePort]map[routing.Key]bool
}

func newPlanner(scheduler string, excluded []netip.Prefix) *planner {
	return &planner{
		scheduler: scheduler, excluded: excluded,
		foreign: map[key]bool{}, frontends: map[routing.Key]*routing.Frontend{}, ports: map[servicePort]map[routing.Key]bool{},
	}
}

// put takes a frontend; nil: it goes.
func (p *planner) put(k routing.Key, f *routing.Frontend) {
	if old := p.frontends[k]; old != nil {
		of := p.ports[portOf(old)]
		if delete(of, k); len(of) == 0 {
			delete(p.ports, portOf(old))
		}
		delete(p.frontends, k)
	}
	if f == nil {
		return
	}
	p.frontends[k] = f
	of := p.ports[portOf(f)]
	if of == nil {
		of = map[routing.Key]bool{}
		p.ports[portOf(f)] = of
	}
	of[k] = true
}

// touched gives the ports that a change of keys concerns: of who has each, and, where the
// address is the node's own, of the node port that gives way.
func (p *planner) touched(into map[servicePort]bool, keys iter.Seq[routing.Key]) {
	for k := range keys {
		if f := p.frontends[k]; f != nil {
			into[portOf(f)] = true
		}
		if k.AnyNode() || !slices.Contains(p.nodes, k.Addr) {
			continue
		}
		if f := p.frontends[anyNode(k)]; f != nil {
			into[portOf(f)] = true
		}
	}
}

// anyNode gives the key of the node port with the same number.
func anyNode(k routing.Key) routing.Key {
	if k.Addr.Is6() {
		k.Addr = netip.IPv6Unspecified()
	} else {
		k.Addr = netip.IPv4Unspecified()
	}
	return k
}

// doors gives the keys of the kernel's that are a frontend's: a node port has one at each
// address of the node that no other frontend has. Those of others aren't ours.
func (p *planner) doors(f *routing.Frontend) (out []key) {
	ours := func(k key) bool {
		return !p.foreign[k] && !slices.ContainsFunc(p.excluded, func(r netip.Prefix) bool { return r.Contains(k.Addr()) })
	}
	if !f.AnyNode() {
		if k := (key{netip.AddrPortFrom(f.Addr, f.Port), f.Protocol}); ours(k) {
			out = append(out, k)
		}
		return out
	}
	for _, a := range p.nodes {
		k := key{netip.AddrPortFrom(a, f.Port), f.Protocol}
		if a.Is6() == f.Addr.Is6() && p.frontends[routing.Key{Addr: a, Protocol: f.Protocol, Port: f.Port}] == nil && ours(k) {
			out = append(out, k)
		}
	}
	return out
}

// planned is the part of one Service port.
type planned struct {
	servers map[key]*wanted
	// idle are the doors of which nobody serves now. A virtual server that was there stays
	// for its flows, as long as nobody else can take them.
	idle  map[key]bool
	facts map[fact]bool
}

// plan gives what a Service port needs.
func (p *planner) plan(of servicePort) planned {
	out := planned{map[key]*wanted{}, map[key]bool{}, map[fact]bool{}}
	var home *routing.Frontend
	for k := range p.ports[of] {
		if f := p.frontends[k]; f.Kind == routing.ClusterIP && len(p.doors(f)) > 0 {
			home = f
		}
	}
	doors := func(f *routing.Frontend) {
		for _, door := range p.doors(f) {
			out.door(p, f, home, door)
		}
	}
	if home != nil { // first: its virtual server is its own
		doors(home)
	}
	for k := range p.ports[of] {
		if f := p.frontends[k]; f != home {
			doors(f)
		}
	}
	for k, w := range out.servers {
		delete(out.idle, k)
		out.fact(oursSet, k, "")
		out.fact(virtualSet, k, "")
		for _, b := range w.set {
			out.backend(b)
		}
	}
	return out
}

func (o *planned) fact(s set, k key, value string) {
	o.facts[fact{s, k.Addr().Is6(), frontendKey(k), value}] = true
}

func (o *planned) address(s set, a netip.Addr) {
	o.facts[fact{set: s, v6: a.Is6(), key: string(a.AsSlice())}] = true
}

// backend notes what the rules must know of one. Of another node's they know nothing: there
// may be many, and what one of these asks itself its own node carries.
func (o *planned) backend(b routing.Backend) {
	if b.Local || b.Node == "" {
		a := string(b.Addr().AsSlice())
		o.facts[fact{set: hairpinSet, v6: b.Addr().Is6(), key: a + a}] = true
	}
	if b.Local {
		o.address(localSet, b.Addr())
	}
}

// door plans one address and port of a frontend.
func (o *planned) door(p *planner, f, home *routing.Frontend, door key) {
	o.idle[door] = true // until somebody serves
	for _, side := range []struct {
		verdict                routing.Verdict
		led, refused, dropping set
	}{
		{f.Verdicts[routing.Workload], ledInsideMap, refusedInsideSet, droppedInsideSet},
		{f.Verdicts[routing.Outside], ledOutsideMap, refusedOutsideSet, droppedOutsideSet},
	} {
		switch action := side.verdict.Action; action {
		case routing.Reject:
			o.fact(side.refused, door, "")
		case routing.Drop:
			o.fact(side.dropping, door, "")
		default:
			at := target(f, home, door, action)
			o.server(p, at, f, action)
			if at != door {
				o.fact(side.led, door, destination(at))
			}
		}
	}
	switch f.Kind {
	case routing.ClusterIP:
		o.address(clusterIPsSet, f.Addr)
		if !slices.ContainsFunc(p.services, func(r netip.Prefix) bool { return r.Contains(f.Addr) }) {
			o.address(routeSet, f.Addr) // of a range that was taken away, say
		}
	case routing.ExternalIP, routing.LoadBalancerIP:
		o.address(doorsSet, f.Addr)
		o.address(routeSet, f.Addr)
	}
	for _, r := range p.sources(f) {
		o.fact(guardedSet, door, "")
		o.facts[fact{admittedSet, r.Addr().Is6(), string(r.Addr().AsSlice()) + frontendKey(door), string(last(r).AsSlice()) + frontendKey(door)}] = true
	}
}

// server notes the virtual server that a side of a frontend needs.
func (o *planned) server(p *planner, at key, f *routing.Frontend, a routing.Action) {
	if o.servers[at] != nil {
		return
	}
	o.servers[at] = &wanted{
		definition: definition{scheduler: cmp.Or(f.Scheduler, p.scheduler), persistent: seconds(f.Affinity)},
		service:    f.Service, uid: f.UID, set: f.Of(a), known: f.Sets,
	}
}

func seconds(d time.Duration) uint32 {
	if d == 0 {
		return 0
	}
	return uint32(max(1, d/time.Second))
}

// target says which virtual server takes a side's packets to a door. IPVS keeps one set and
// its clients' affinity for each virtual server. So the door's own has the set of clients
// outside, and with affinity there is one for the whole Service port, that of its cluster IP:
// whoever can't use the door's own is led to that, or where it has the other set too, to one
// more behind an address that nobody else has.
func target(f, home *routing.Frontend, door key, a routing.Action) key {
	own := f.Verdicts[routing.Outside].Action
	if !f.Verdicts[routing.Outside].Serves() {
		own = a
	}
	if home == nil && a == own || home != nil && f.Affinity == 0 && a == own {
		return door
	}
	if home == nil {
		return key{netip.AddrPortFrom(alias(door.Addr()), door.Port()), door.protocol}
	}
	at := netip.AddrPortFrom(home.Addr, home.Port)
	if home.Verdicts[routing.Workload].Action != a {
		at = netip.AddrPortFrom(alias(home.Addr), home.Port)
	}
	return key{at, door.protocol}
}

// aliases are addresses that no host has: those of class E (RFC 1112, section 4), and of
// IPv6 those that RFC 4291 has never given a use (0100::/8).
var aliases = [2]netip.Prefix{netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("100::/8")}

// alias gives the second address of a cluster IP, which differs in the first bits.
func alias(a netip.Addr) netip.Addr {
	if a.Is6() {
		b := a.As16()
		b[0] = 1
		return netip.AddrFrom16(b)
	}
	b := a.As4()
	b[0] |= 0xf0
	return netip.AddrFrom4(b)
}

// sources gives who may use a load-balancer address, nothing for everybody: sorted, and
// none within another. A node that may comes also from the address itself, when it has it.
func (p *planner) sources(f *routing.Frontend) (out []netip.Prefix) {
	if f.Kind != routing.LoadBalancerIP || len(f.SourceRanges) == 0 {
		return nil
	}
	self := netip.PrefixFrom(f.Addr, f.Addr.BitLen())
	var all []netip.Prefix
	for _, r := range f.SourceRanges {
		if r.Addr().Is6() == f.Addr.Is6() {
			all = append(all, r.Masked())
		}
	}
	if len(all) == 0 || slices.ContainsFunc(all, func(r netip.Prefix) bool { return slices.ContainsFunc(p.nodes, r.Contains) }) {
		all = append(all, self) // with no range of this family: nobody else
	}
	slices.SortFunc(all, netip.Prefix.Compare) // what contains another comes before it
	for _, r := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(r) {
			out = append(out, r)
		}
	}
	return out
}

// last gives the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// frontendKey is address . protocol . port as nftables has it, each padded to four bytes.
func frontendKey(k key) string {
	b := append(k.Addr().AsSlice(), byte(k.protocol), 0, 0, 0)
	return string(append(binary.BigEndian.AppendUint16(b, k.Port()), 0, 0))
}

// destination is address . port likewise.
func destination(k key) string {
	return string(append(binary.BigEndian.AppendUint16(k.Addr().AsSlice(), k.Port()), 0, 0))
}

// parseFrontendKey reads what frontendKey wrote.
func parseFrontendKey(b []byte, v6 bool) (k key, ok bool) {
	n := 4
	if v6 {
		n = 16
	}
	if len(b) != n+8 {
		return k, false
	}
	a, _ := netip.AddrFromSlice(b[:n])
	return key{netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[n+4:])), catalog.Protocol(b[n])}, true
}
