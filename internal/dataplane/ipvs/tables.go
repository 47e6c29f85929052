package ipvs

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"

	"portico.dev/portico/internal/dataplane/notices"
)

// tables are ours in nftables.
type tables struct {
	conn     *nftables.Conn
	families [2]*family
	*notices.Listener
}

func openTables() (*tables, error) {
	conn, l, err := notices.Open(Table)
	if err != nil {
		return nil, err
	}
	return &tables{conn: conn, families: [2]*family{newFamily(false), newFamily(true)}, Listener: l}, nil
}

func index(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// ours reads the keys of the virtual servers that we made, from this run or an earlier one.
func (t *tables) ours() (map[key]bool, error) {
	out := map[key]bool{}
	for _, f := range t.families {
		if ok, err := t.has(f); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		elements, err := t.conn.GetSetElements(f.sets[oursSet])
		if err != nil {
			return nil, fmt.Errorf("read set %s of %s: %w", setNames[oursSet], f.name(), err)
		}
		for _, e := range elements {
			if k, ok := parseFrontendKey(e.Key, f.v6); ok {
				out[k] = true
			}
		}
	}
	return out, nil
}

// exist reports whether both tables are there.
func (t *tables) exist() (bool, error) {
	for _, f := range t.families {
		if ok, err := t.has(f); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (t *tables) has(f *family) (bool, error) {
	all, err := t.conn.ListTablesOfFamily(f.of.Family)
	if err != nil {
		return false, fmt.Errorf("list the tables of nftables: %w", err)
	}
	return slices.ContainsFunc(all, func(of *nftables.Table) bool { return of.Name == Table }), nil
}

// replace writes the tables anew, in one transaction.
func (t *tables) replace(s *site, facts map[fact]int) error {
	for _, f := range t.families {
		t.conn.AddTable(f.of) // or deleting it would fail where it is missing
		t.conn.DelTable(f.of)
		t.conn.AddTable(f.of)
		for _, set := range f.sets {
			_ = t.conn.AddSet(set, nil) // it fails for elements only
		}
		for _, c := range f.chains(s) {
			chain := &nftables.Chain{Name: c.name, Table: f.of}
			if c.kind != "" {
				chain.Type, chain.Hooknum, chain.Priority = c.kind, c.hook, &c.priority
			}
			t.conn.AddChain(chain)
			for _, r := range c.rules {
				t.conn.AddRule(&nftables.Rule{Table: f.of, Chain: chain, Exprs: r})
			}
		}
	}
	return t.change(slices.Collect(maps.Keys(facts)), nil)
}

// elementsEach is how many elements are in one message: an attribute has 64 KiB at most.
const elementsEach = 400

// change adds and deletes elements, and what else was planned, in one transaction.
func (t *tables) change(add, del []fact) error {
	var errs []error
	send := func(facts []fact, do func(*nftables.Set, []nftables.SetElement) error) {
		by := map[*nftables.Set][]nftables.SetElement{}
		for i := range facts {
			if x := &facts[i]; x.set < setCount {
				set := t.families[index(x.v6)].sets[x.set]
				by[set] = append(by[set], x.element())
			}
		}
		for set, elements := range by {
			for chunk := range slices.Chunk(elements, elementsEach) {
				errs = append(errs, do(set, chunk))
			}
		}
	}
	send(del, t.conn.SetDeleteElements)
	send(add, t.conn.SetAddElements)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("change %s: %w", Table, err)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("change %s: %w", Table, err)
	}
	return nil
}

// verify compares the kernel's tables with what they should be, in words.
func (t *tables) verify(s *site, facts map[fact]int) (words []string, err error) {
	for i, f := range t.families {
		if ok, err := t.has(f); err != nil {
			return nil, err
		} else if !ok {
			words = append(words, f.name()+": no table")
			continue
		}
		for _, c := range f.chains(s) {
			rules, err := t.conn.GetRules(f.of, &nftables.Chain{Name: c.name, Table: f.of})
			if err != nil {
				return nil, fmt.Errorf("read chain %s of %s: %w", c.name, f.name(), err)
			}
			if len(rules) != len(c.rules) {
				words = append(words, fmt.Sprintf("%s chain %s: %d rules, want %d", f.name(), c.name, len(rules), len(c.rules)))
			}
		}
		want := [setCount]map[string]bool{}
		for s := range want {
			want[s] = map[string]bool{}
		}
		for x := range facts {
			if x.set < setCount && index(x.v6) == i {
				want[x.set][text(x.element())] = true
			}
		}
		for s, set := range f.sets {
			elements, err := t.conn.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("read set %s of %s: %w", set.Name, f.name(), err)
			}
			have := map[string]bool{}
			for _, e := range elements {
				have[text(e)] = true
			}
			for _, e := range slices.Sorted(maps.Keys(want[s])) {
				if !have[e] {
					words = append(words, fmt.Sprintf("%s set %s: missing: %s", f.name(), set.Name, e))
				}
			}
			for _, e := range slices.Sorted(maps.Keys(have)) {
				if !want[s][e] {
					words = append(words, fmt.Sprintf("%s set %s: superfluous: %s", f.name(), set.Name, e))
				}
			}
		}
	}
	return words, nil
}

// text prints an element; elements compare so.
func text(e nftables.SetElement) string {
	s := fmt.Sprintf("%x", e.Key)
	if len(e.KeyEnd) > 0 {
		s += fmt.Sprintf(" to %x", e.KeyEnd)
	}
	if len(e.Val) > 0 {
		s += fmt.Sprintf(" leads to %x", e.Val)
	}
	return s
}

// remove takes our tables away.
func (t *tables) remove() error {
	for _, f := range t.families {
		t.conn.AddTable(f.of) // or deleting it would fail where it is missing
		t.conn.DelTable(f.of)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("remove the tables %s: %w", Table, err)
	}
	return nil
}
