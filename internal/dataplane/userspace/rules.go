package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane/notices"
)

// Table is the name of our tables, one for each family.
const Table = "portico-userspace"

// door is where one family's connections are led to; none without an address.
type door struct {
	addr netip.Addr
	port uint16 // of TCP; UDP has one for each frontend
}

// lead is what happens to a frontend's packets from one side.
type lead struct {
	port    uint16 // of ours; 0: it is refused or dropped
	refused bool   // with an error for the client; else without a word
}

// entry is what the rules have of one frontend.
type entry struct {
	key             routing.Key
	kind            routing.Kind
	inside, outside lead // for workloads and this node, for everybody else
	// sources are those that may use it; empty: all. None of them contains another.
	sources []netip.Prefix
}

// owned tells whether the address is the Service's alone: its other ports are refused.
func (e *entry) owned() bool { return e.kind == routing.ClusterIP || e.kind == routing.LoadBalancerIP }

func (e *entry) equal(o *entry) bool {
	return e.key == o.key && e.kind == o.kind && e.inside == o.inside && e.outside == o.outside && slices.Equal(e.sources, o.sources)
}

// entriesOf translates frontends whose sockets are open.
func (b *Backend) entriesOf(frontends []*routing.Frontend) []entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]entry, 0, len(frontends))
	for _, f := range frontends {
		var port uint16
		switch have := b.fronts[f.Key]; {
		case have == nil:
		case f.Protocol == protocolTCP:
			port = b.rules.doors[family(f.Addr)].port
		case have.udp != nil:
			port = have.udp.port()
		}
		leads := func(v routing.Verdict) lead {
			if v.Serves() && port != 0 {
				return lead{port: port}
			}
			return lead{refused: v.Action != routing.Drop}
		}
		out = append(out, entry{f.Key, f.Kind, leads(f.Verdicts[routing.Workload]), leads(f.Verdicts[routing.Outside]), sourcesOf(f, b.nodes)})
	}
	return out
}

// sourcesOf gives who may use a load-balancer address. A node that may comes also from the
// address itself, when it has it (DP-14).
func sourcesOf(f *routing.Frontend, nodes map[netip.Addr]bool) (out []netip.Prefix) {
	if f.Kind != routing.LoadBalancerIP || len(f.SourceRanges) == 0 {
		return nil
	}
	all := make([]netip.Prefix, 0, len(f.SourceRanges)+1)
	node := false
	for _, p := range f.SourceRanges {
		if p.Addr().Is6() != f.Addr.Is6() {
			continue
		}
		all = append(all, p.Masked())
		for a := range nodes {
			node = node || p.Contains(a)
		}
	}
	if node {
		all = append(all, netip.PrefixFrom(f.Addr, f.Addr.BitLen()))
	}
	if len(all) == 0 { // none of this family: nobody
		return []netip.Prefix{netip.PrefixFrom(f.Addr, f.Addr.BitLen())}
	}
	slices.SortFunc(all, netip.Prefix.Compare) // what contains another comes before it
	for _, p := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// rules are our tables in the kernel, and what they hold.
type rules struct {
	doors     [2]door
	workloads []netip.Prefix
	conn      *nftables.Conn
	sets      [2]*sets
	held      map[routing.Key]entry
	ips       map[netip.Addr]int // Services' own addresses, with how many frontends have each
	nodes     []netip.Addr
	*notices.Listener
}

func openRules(doors [2]door, workloads []netip.Prefix) (*rules, error) {
	conn, l, err := notices.Open(Table)
	if err != nil {
		return nil, err
	}
	r := &rules{doors: doors, workloads: workloads, conn: conn, held: map[routing.Key]entry{}, ips: map[netip.Addr]int{}, Listener: l}
	for i := range r.sets {
		r.sets[i] = newSets(i)
	}
	return r, nil
}

// replace writes the tables anew, in one transaction.
func (r *rules) replace(entries []entry, nodes []netip.Addr, services []netip.Prefix) error {
	r.held, r.ips, r.nodes = map[routing.Key]entry{}, map[netip.Addr]int{}, slices.Clone(nodes)
	for i, s := range r.sets {
		s.table(r.conn, r.doors[i], r.workloads, services)
	}
	for _, a := range nodes {
		r.sets[family(a)].addNode(a)
	}
	for _, e := range entries {
		r.put(e)
	}
	return r.commit("write the tables")
}

// change carries over what differs.
func (r *rules) change(entries []entry, removed []routing.Key) error {
	for _, key := range removed {
		r.drop(key)
	}
	for _, e := range entries {
		r.put(e)
	}
	return r.commit("change the tables")
}

func (r *rules) put(e entry) {
	if have, ok := r.held[e.key]; ok && have.equal(&e) {
		return
	}
	r.drop(e.key)
	r.held[e.key] = e
	s := r.sets[family(e.key.Addr)]
	s.put(&s.add, e)
	if e.owned() {
		if r.ips[e.key.Addr]++; r.ips[e.key.Addr] == 1 {
			s.add[s.ips] = append(s.add[s.ips], nftables.SetElement{Key: e.key.Addr.AsSlice()})
		}
	}
}

func (r *rules) drop(key routing.Key) {
	e, ok := r.held[key]
	if !ok {
		return
	}
	delete(r.held, key)
	s := r.sets[family(key.Addr)]
	s.put(&s.del, e)
	if e.owned() {
		if r.ips[key.Addr]--; r.ips[key.Addr] == 0 {
			delete(r.ips, key.Addr)
			s.del[s.ips] = append(s.del[s.ips], nftables.SetElement{Key: key.Addr.AsSlice()})
		}
	}
}

func (r *rules) setNodes(nodes []netip.Addr) error {
	for _, a := range r.nodes {
		s := r.sets[family(a)]
		s.del[s.nodes] = append(s.del[s.nodes], nftables.SetElement{Key: a.AsSlice()})
	}
	for _, a := range nodes {
		r.sets[family(a)].addNode(a)
	}
	r.nodes = slices.Clone(nodes)
	return r.commit("change the node's addresses")
}

// elementsEach is how many elements are in one message: an attribute has 64 KiB at most.
const elementsEach = 400

// commit sends what was planned, as one transaction.
func (r *rules) commit(what string) error {
	var errs []error
	for _, s := range r.sets {
		for set, elements := range s.del {
			for chunk := range slices.Chunk(elements, elementsEach) {
				errs = append(errs, r.conn.SetDeleteElements(set, chunk))
			}
		}
		for set, elements := range s.add {
			for chunk := range slices.Chunk(elements, elementsEach) {
				errs = append(errs, r.conn.SetAddElements(set, chunk))
			}
		}
		s.add, s.del = plan{}, plan{}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("userspace data plane: %s: %w", what, err)
	}
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("userspace data plane: %s: %w", what, err)
	}
	return nil
}

// verify compares the kernel's elements with what they should be, in words.
func (r *rules) verify(entries []entry, nodes []netip.Addr) ([]string, error) {
	var words []string
	for i, s := range r.sets {
		want := newSets(i)
		ips := map[netip.Addr]bool{}
		for _, e := range entries {
			if family(e.key.Addr) != i {
				continue
			}
			want.put(&want.add, e)
			if e.owned() && !ips[e.key.Addr] {
				ips[e.key.Addr] = true
				want.add[want.ips] = append(want.add[want.ips], nftables.SetElement{Key: e.key.Addr.AsSlice()})
			}
		}
		for _, a := range nodes {
			if family(a) == i {
				want.addNode(a)
			}
		}
		for at, set := range s.all() {
			have, err := r.conn.GetSetElements(set)
			if errors.Is(err, unix.ENOENT) {
				words = append(words, fmt.Sprintf("%s set %s: missing", s.name(), set.Name))
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read set %s of %s: %w", set.Name, s.name(), err)
			}
			words = append(words, differences(s.name()+" set "+set.Name, texts(have), texts(want.add[want.all()[at]]))...)
		}
	}
	return words, nil
}

func differences(where string, have, want map[string]bool) (words []string) {
	for _, e := range slices.Sorted(maps.Keys(want)) {
		if !have[e] {
			words = append(words, fmt.Sprintf("%s: missing: %s", where, e))
		}
	}
	for _, e := range slices.Sorted(maps.Keys(have)) {
		if !want[e] {
			words = append(words, fmt.Sprintf("%s: superfluous: %s", where, e))
		}
	}
	return words
}

// texts prints elements, which compare so.
func texts(elements []nftables.SetElement) map[string]bool {
	out := map[string]bool{}
	for _, e := range elements {
		s := fmt.Sprintf("%x", e.Key)
		if len(e.KeyEnd) > 0 {
			s += fmt.Sprintf(" to %x", e.KeyEnd)
		}
		if len(e.Val) > 0 {
			s += fmt.Sprintf(" leads to port %d", binary.BigEndian.Uint16(e.Val))
		}
		out[s] = true
	}
	return out
}

// remove takes our tables away.
func (r *rules) remove() error {
	r.held, r.ips = map[routing.Key]entry{}, map[netip.Addr]int{}
	return removeTables(r.conn)
}

// Remove takes away what a node that was run with this data plane has left.
func Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	return removeTables(conn)
}

func removeTables(c *nftables.Conn) error {
	for i := range 2 {
		table := newSets(i).of
		c.AddTable(table) // or deleting it would fail where it is missing
		c.DelTable(table)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove the tables of the userspace data plane: %w", err)
	}
	return nil
}

// elementKey is address . protocol . port, each padded to four bytes.
func elementKey(k routing.Key) []byte {
	b := k.Addr.AsSlice()
	b = append(b, byte(k.Protocol), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, k.Port)
	return append(b, 0, 0)
}
