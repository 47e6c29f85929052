package iptables

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"portico.dev/portico/internal/core/routing"
)

// tree is chains by which a packet finds its frontend in steps of four bits, so that
// neither the packet nor a change meets all Services. Addresses go by their last byte,
// because allocators draw that at random; ports by their upper and middle bits.
type tree struct {
	table  table
	root   string
	match  string // the side of a packet that has the address: -d, or -s
	leaf   func(key routing.Key, f *routing.Frontend) []string
	tail   func(last routing.Key) []string // after the last key of an address; nil: nothing
	leaves map[string]map[routing.Key]*routing.Frontend
	inner  map[string]map[string]string // match of each chain that an inner one leads to
}

func newTree(t table, root string, leaf func(routing.Key, *routing.Frontend) []string) *tree {
	return &tree{table: t, root: root, match: "-d ", leaf: leaf, leaves: map[string]map[routing.Key]*routing.Frontend{}, inner: map[string]map[string]string{root: {}}}
}

// step is one chain on the way to a frontend, and what leads to it from the one before.
type step struct{ chain, match string }

// path gives the two chains below the root.
func (t *tree) path(k routing.Key) [2]step {
	if k.AnyNode() {
		p := protocolOf(k)
		ports := func(first, last uint16) string {
			return fmt.Sprintf("-p %s -m %s --dport %d:%d", p, p, first, last)
		}
		high, middle := k.Port&0xff00, k.Port&0xfff0
		chain := fmt.Sprintf("%s-%s%02x", t.root, p[:1], k.Port>>8)
		return [2]step{{chain, ports(high, high|0xff)}, {fmt.Sprintf("%s%x", chain, k.Port>>4&15), ports(middle, middle|0xf)}}
	}
	b := k.Addr.AsSlice()
	last := b[len(b)-1]
	masked := func(value, mask byte) string {
		v, m := make([]byte, len(b)), make([]byte, len(b))
		v[len(b)-1], m[len(b)-1] = value, mask
		va, _ := netip.AddrFromSlice(v)
		ma, _ := netip.AddrFromSlice(m)
		return t.match + va.String() + "/" + ma.String()
	}
	chain := fmt.Sprintf("%s-%x", t.root, last&15)
	return [2]step{{chain, masked(last&15, 15)}, {fmt.Sprintf("%s%x", chain, last>>4), masked(last&0xf0, 0xf0)}}
}

// put changes one frontend, nil: it is none of the tree's. It gives the chains that change.
func (t *tree) put(k routing.Key, f *routing.Frontend) []string {
	p := t.path(k)
	leaf := t.leaves[p[1].chain]
	if _, there := leaf[k]; f == nil && !there {
		return nil
	}
	changed := []string{p[1].chain}
	if f == nil {
		if delete(leaf, k); len(leaf) > 0 {
			return changed
		}
		delete(t.leaves, p[1].chain)
		changed = append(changed, p[0].chain)
		if delete(t.inner[p[0].chain], p[1].chain); len(t.inner[p[0].chain]) == 0 {
			delete(t.inner, p[0].chain)
			delete(t.inner[t.root], p[0].chain)
			changed = append(changed, t.root)
		}
		return changed
	}
	if leaf == nil {
		leaf = map[routing.Key]*routing.Frontend{}
		t.leaves[p[1].chain] = leaf
		changed = append(changed, p[0].chain)
		if t.inner[p[0].chain] == nil {
			t.inner[p[0].chain] = map[string]string{}
			t.inner[t.root][p[0].chain] = p[0].match
			changed = append(changed, t.root)
		}
		t.inner[p[0].chain][p[1].chain] = p[1].match
	}
	leaf[k] = f
	return changed
}

// render gives the rules of one of the tree's chains; false when it is not there any more.
func (t *tree) render(chain string) ([]string, bool) {
	if next, ok := t.inner[chain]; ok {
		var rules []string
		for _, to := range slices.Sorted(maps.Keys(next)) {
			rules = append(rules, next[to]+" -j "+to)
		}
		return rules, true
	}
	leaf, ok := t.leaves[chain]
	if !ok {
		return nil, false
	}
	keys := slices.SortedFunc(maps.Keys(leaf), compareKeys)
	var rules []string
	for i, k := range keys {
		rules = append(rules, t.leaf(k, leaf[k])...)
		if t.tail != nil && (i+1 == len(keys) || keys[i+1].Addr != k.Addr) {
			rules = append(rules, t.tail(k)...)
		}
	}
	if t.tail == nil { // no packet matches two of them, so that their order is free
		slices.SortStableFunc(rules, bySet)
	}
	return rules, true
}

func compareKeys(a, b routing.Key) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// protocolOf is the protocol as iptables calls it, and its match.
func protocolOf(k routing.Key) string { return strings.ToLower(k.Protocol.String()) }

// matchOf matches a frontend: for a node port the address was matched before.
func matchOf(k routing.Key) string {
	p := protocolOf(k)
	m := fmt.Sprintf("-p %s -m %s --dport %d", p, p, k.Port)
	if !k.AnyNode() {
		m = "-d " + whole(k.Addr) + " " + m
	}
	return m
}

func whole(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
