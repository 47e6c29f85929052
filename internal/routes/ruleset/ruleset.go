package ruleset

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Table is a table of family inet.
type Table struct {
	Name   string
	Chains []Chain // a chain stands after those it jumps to
}

// Chain is a base chain when Hook is set, else one to be jumped to.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority *nftables.ChainPriority
	Rules    []Rule
}

// Rule is a rule: its matches in order, the verdict last.
type Rule []Match

// Apply replaces the kernel's table of that name, in one transaction: no packet
// meets a half-made table, and none meets no table where there was one.
func (t Table) Apply() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := t.ref()
	c.AddTable(table) // or deleting it would fail where it is missing
	c.DelTable(table)
	c.AddTable(table)
	for _, ch := range t.Chains {
		chain := &nftables.Chain{Name: ch.Name, Table: table, Type: ch.Type, Hooknum: ch.Hook, Priority: ch.Priority}
		c.AddChain(chain)
		for _, r := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat[[]expr.Any](exprs(r)...)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table inet %s: %w", t.Name, err)
	}
	return nil
}

// Remove deletes the table of that name. It reports whether there was one.
func Remove(name string) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	c.DelTable(Table{Name: name}.ref())
	err = c.Flush()
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove nftables table inet %s: %w", name, err)
	}
	return true, nil
}

// state identifies what the kernel holds: the handles of the table's rules,
// which the kernel never uses twice in one table.
type state map[string][]uint64

func (t Table) read() (state, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	s := state{}
	for _, ch := range t.Chains {
		rules, err := c.GetRules(t.ref(), &nftables.Chain{Name: ch.Name})
		if err != nil {
			return nil, fmt.Errorf("read nftables table inet %s: %w", t.Name, err)
		}
		handles := []uint64{}
		for _, r := range rules {
			handles = append(handles, r.Handle)
		}
		s[ch.Name] = handles
	}
	return s, nil
}

// complete tells whether s has as many rules as t.
func (t Table) complete(s state) bool {
	for _, ch := range t.Chains {
		if len(s[ch.Name]) != len(ch.Rules) {
			return false
		}
	}
	return true
}

func (t Table) ref() *nftables.Table {
	return &nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet}
}

func exprs(r Rule) [][]expr.Any {
	out := make([][]expr.Any, 0, len(r))
	for _, m := range r {
		out = append(out, m)
	}
	return out
}

// Has tells whether the kernel has the table with as many rules as it should.
func (t Table) Has() (bool, error) {
	s, err := t.read()
	return err == nil && t.complete(s), err
}
