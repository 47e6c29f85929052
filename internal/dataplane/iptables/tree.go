package iptables

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"portico.dev/portico/internal/core/catalog"
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

// path names the two chains below the root.
func (t *tree) path(k routing.Key) [2]string {
	if k.AnyNode() {
		chain := t.root + "-" + protocolOf(k)[:1] + digit(k.Port>>12) + digit(k.Port>>8&15)
		return [2]string{chain, chain + digit(k.Port>>4&15)}
	}
	last := lastByte(k.Addr)
	chain := t.root + "-" + digit(uint16(last&15))
	return [2]string{chain, chain + digit(uint16(last>>4))}
}

// digit is a number below 16 in hexadecimal. Paths are made five times for each frontend.
func digit(n uint16) string { return "0123456789abcdef"[n : n+1] }

func lastByte(a netip.Addr) byte {
	b := a.As16()
	return b[15]
}

// matches gives what leads to the chains of the path, each from the one before.
func (t *tree) matches(k routing.Key) [2]string {
	if k.AnyNode() {
		p := protocolOf(k)
		ports := func(first, last uint16) string {
			return fmt.Sprintf("-p %s -m %s --dport %d:%d", p, p, first, last)
		}
		high, middle := k.Port&0xff00, k.Port&0xfff0
		return [2]string{ports(high, high|0xff), ports(middle, middle|0xf)}
	}
	masked := func(mask byte) string {
		v, m := make([]byte, k.Addr.BitLen()/8), make([]byte, k.Addr.BitLen()/8)
		v[len(v)-1], m[len(m)-1] = lastByte(k.Addr)&mask, mask
		va, _ := netip.AddrFromSlice(v)
		ma, _ := netip.AddrFromSlice(m)
		return t.match + va.String() + "/" + ma.String()
	}
	return [2]string{masked(0x0f), masked(0xf0)}
}

// put changes one frontend, nil: it is none of the tree's. It gives the chains that change.
func (t *tree) put(k routing.Key, f *routing.Frontend) []string {
	p := t.path(k)
	leaf := t.leaves[p[1]]
	if _, there := leaf[k]; f == nil && !there {
		return nil
	}
	changed := []string{p[1]}
	if f == nil {
		if delete(leaf, k); len(leaf) > 0 {
			return changed
		}
		delete(t.leaves, p[1])
		changed = append(changed, p[0])
		if delete(t.inner[p[0]], p[1]); len(t.inner[p[0]]) == 0 {
			delete(t.inner, p[0])
			delete(t.inner[t.root], p[0])
			changed = append(changed, t.root)
		}
		return changed
	}
	if leaf == nil {
		leaf = map[routing.Key]*routing.Frontend{}
		t.leaves[p[1]] = leaf
		changed = append(changed, p[0])
		matches := t.matches(k)
		if t.inner[p[0]] == nil {
			t.inner[p[0]] = map[string]string{}
			t.inner[t.root][p[0]] = matches[0]
			changed = append(changed, t.root)
		}
		t.inner[p[0]][p[1]] = matches[1]
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
func protocolOf(k routing.Key) string {
	switch k.Protocol {
	case catalog.TCP:
		return "tcp"
	case catalog.UDP:
		return "udp"
	}
	return "sctp"
}

// matchOf matches a frontend: for a node port the address was matched before.
func matchOf(k routing.Key) string {
	p := protocolOf(k)
	m := "-p " + p + " -m " + p + " --dport " + strconv.Itoa(int(k.Port))
	if !k.AnyNode() {
		m = "-d " + whole(k.Addr) + " " + m
	}
	return m
}

func whole(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
