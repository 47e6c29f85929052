package nftables

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/routing"
)

// reading is what the kernel shows of our two tables.
type reading [2]tableReading

type tableReading struct {
	exists   bool
	sets     map[string][]byte // attributes by name
	chains   map[string][]byte
	rules    map[string][][]byte // by chain, in order
	elements map[string][]element
}

// readTries bounds how often a dump that a change interrupted is started anew.
const readTries = 20

// read dumps our tables.
func (c *conn) read(families [2]*family) (*reading, error) {
	var r reading
	err := undisturbed(func() error {
		for i, f := range families {
			if err := c.readTable(f, &r[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// lengths finds the lengths of prefixes that the kernel has sets for.
func (c *conn) lengths() (lengths [2][]int, err error) {
	err = undisturbed(func() error {
		for i, f := range newFamilies(limits{}) {
			lengths[i] = nil
			sets, err := c.readSets(f)
			if errors.Is(err, unix.ENOENT) {
				continue // there is no table
			}
			if err != nil {
				return err
			}
			for bits := range f.addrLen*8 + 1 {
				if sets[admittedName(bits)] != nil {
					lengths[i] = append(lengths[i], bits)
				}
			}
		}
		return nil
	})
	return lengths, err
}

// undisturbed starts reading anew until no change interrupts it.
func undisturbed(read func() error) error {
	for try := 1; ; try++ {
		err := read()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) || try == readTries {
			return fmt.Errorf("read our tables from the kernel: %w", err)
		}
	}
}

func (c *conn) readTable(f *family, t *tableReading) error {
	*t = tableReading{sets: map[string][]byte{}, chains: map[string][]byte{}, rules: map[string][][]byte{}, elements: map[string][]element{}}
	err := c.dump(message{kind: unix.NFT_MSG_GETTABLE, family: f.nf, what: "list tables"}, func(b []byte) error {
		t.exists = t.exists || cString(find(b, unix.NFTA_TABLE_NAME)) == Table
		return nil
	})
	if err != nil || !t.exists {
		return err
	}
	if t.sets, err = c.readSets(f); err != nil {
		return err
	}
	if t.chains, err = c.readNamed(f, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME); err != nil {
		return err
	}
	if t.rules, err = c.readRules(f); err != nil {
		return err
	}
	for i := range f.sets {
		if name := f.sets[i].name; t.sets[name] != nil && !f.sets[i].dynamic {
			if t.elements[name], err = c.readElements(f, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *conn) readSets(f *family) (map[string][]byte, error) {
	return c.readNamed(f, unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME)
}

// readNamed lists what has a name in our table.
func (c *conn) readNamed(f *family, kind, table, name uint16) (map[string][]byte, error) {
	found := map[string][]byte{}
	m := message{kind: kind, family: f.nf, what: "list what is in table " + f.name}
	m.body.string(table, Table)
	err := c.dump(m, func(b []byte) error {
		if cString(find(b, table)) == Table {
			found[cString(find(b, name))] = bytes.Clone(b)
		}
		return nil
	})
	return found, err
}

// readRules lists the rules of our table by chain, in order.
func (c *conn) readRules(f *family) (map[string][][]byte, error) {
	found := map[string][][]byte{}
	m := message{kind: unix.NFT_MSG_GETRULE, family: f.nf, what: "list rules of table " + f.name}
	m.body.string(unix.NFTA_RULE_TABLE, Table)
	err := c.dump(m, func(b []byte) error {
		if cString(find(b, unix.NFTA_RULE_TABLE)) == Table {
			chain := cString(find(b, unix.NFTA_RULE_CHAIN))
			found[chain] = append(found[chain], bytes.Clone(b))
		}
		return nil
	})
	return found, err
}

func (c *conn) readElements(f *family, set string) (out []element, err error) {
	m := message{kind: unix.NFT_MSG_GETSETELEM, family: f.nf, what: fmt.Sprintf("list elements of set %s %s", f.name, set)}
	m.body.string(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
	m.body.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	err = c.dump(m, func(b []byte) error {
		out, err = appendElements(out, find(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS))
		return err
	})
	return out, err
}

// appendElements reads an element list. A slice that is full doubles: append adds a
// quarter to a long one, which is five times as much memory in all.
func appendElements(out []element, list []byte) ([]element, error) {
	for {
		a, rest, more, err := nextAttr(list)
		if err != nil || !more {
			return out, err
		}
		e, err := parseElement(a.payload)
		if err != nil {
			return out, err
		}
		if len(out) == cap(out) {
			out = slices.Grow(out, max(len(out), 64))
		}
		out, list = append(out, e), rest
	}
}

// adopt takes what the kernel shows as what it holds. Elements that make no
// sense as ours are planned to go.
func (k *kernel) adopt(r *reading) {
	for i, f := range k.families {
		t := &r[i]
		k.adoptSessions(i, t)
		k.adoptGuards(i, t)
		k.adoptEnded(i, t)
		for name := range t.chains {
			if d, ok := drawTarget(name); ok {
				k.chains[i][d] = true
			}
		}
		k.adoptChoices(i, t)
		for _, nodePort := range []bool{false, true} {
			p := plan{k: k, i: i, nodePort: nodePort}
			k.adoptTargets(i, t, p.servicesMap(), nodePort, func(h *held) *target { return &h.inside })
			k.adoptTargets(i, t, p.outsideMap(), nodePort, func(h *held) *target { return &h.outside })
			k.adoptRefusals(i, t, p.refusedSet(refuse), nodePort, refuse)
			k.adoptRefusals(i, t, p.refusedSet(discard), nodePort, discard)
			k.adoptSlots(i, t, p.clusterSet(), nodePort, func(h *held) *[]netip.AddrPort { return &h.cluster })
			k.adoptSlots(i, t, p.localSet(), nodePort, func(h *held) *[]netip.AddrPort { return &h.local })
			for set, name := range p.sessionMaps() {
				k.adoptSessionIDs(i, t, name, nodePort, set)
			}
		}
		for name, refs := range map[string]*refs{hairpinSet: &k.near[i], remoteBackendsSet: &k.far[i], clusterIPsSet: &k.ips[i], nodeAddressesSet: &k.nodes[i], loadBalancerIPsSet: &k.lbIPs[i], externalIPsSet: &k.external[i]} {
			refs.expect(len(t.elements[name]), i == 1)
			for _, e := range t.elements[name] {
				a, _ := netip.AddrFromSlice([]byte(e.key[:min(len(e.key), f.addrLen)]))
				if e != addressElement(name, a) {
					k.now.del(i, name, e)
					continue
				}
				refs.adopt(a)
			}
		}
	}
}

func (k *kernel) heldFor(key routing.Key) *held {
	h := k.held[key]
	if h == nil {
		h = &held{}
		k.held[key] = h
	}
	return h
}

// adoptChoices takes the ways to chains that exist.
func (k *kernel) adoptChoices(i int, t *tableReading) {
	for _, e := range t.elements[choicesMap] {
		d, ok := parseCode(e.key)
		if !ok || e != d.choice() || d.kind != leave && !k.chains[i][d] {
			k.now.del(i, choicesMap, e)
			continue
		}
		k.chosen[i][d] = true
	}
}

func (k *kernel) adoptTargets(i int, t *tableReading, set string, nodePort bool, field func(*held) *target) {
	for _, e := range t.elements[set] {
		key, ok := k.families[i].parseFrontendKey(e.key, nodePort)
		d, known := parseCode(e.data)
		if !ok || !known {
			k.now.del(i, set, e)
			continue
		}
		*field(k.heldFor(key)) = d
	}
}

func (k *kernel) adoptRefusals(i int, t *tableReading, set string, nodePort bool, r refusal) {
	for _, e := range t.elements[set] {
		key, ok := k.families[i].parseFrontendKey(e.key, nodePort)
		if !ok || k.heldFor(key).refused != none {
			k.now.del(i, set, e)
			continue
		}
		k.heldFor(key).refused = r
	}
}

// adoptSlots takes slots 0 to n without a gap; what stands behind a gap was
// never ours.
func (k *kernel) adoptSlots(i int, t *tableReading, set string, nodePort bool, field func(*held) *[]netip.AddrPort) {
	type slot struct {
		element int
		of      *held
		number  int
		backend netip.AddrPort
	}
	elements := t.elements[set]
	found, count := make([]slot, 0, len(elements)), map[*held]int{}
	for at, e := range elements {
		key, n, ap, ok := k.families[i].parseSlot(e.key, e.data, nodePort)
		if !ok {
			k.now.del(i, set, e)
			continue
		}
		h := k.heldFor(key)
		found = append(found, slot{at, h, n, ap})
		count[h]++
	}
	for h, n := range count {
		*field(h) = make([]netip.AddrPort, n)
	}
	for _, s := range found {
		if into := *field(s.of); s.number < len(into) { // or there is a gap before it
			into[s.number] = s.backend
		}
	}
	for h := range count {
		into := field(h)
		if gap := slices.Index(*into, netip.AddrPort{}); gap >= 0 {
			*into = (*into)[:gap]
		}
	}
	for _, s := range found {
		if s.number >= len(*field(s.of)) {
			k.now.del(i, set, elements[s.element])
		}
	}
}
