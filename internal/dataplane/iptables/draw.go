package iptables

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"portico.dev/portico/internal/core/routing"
)

// fan is how many draws are in one chain: a set of more is a tree of chains, so that a
// packet meets some tens of rules even among 10,000 backends.
const fan = 32

// set is the backends of one Service port, family and policy, with a chain of their own.
type set struct {
	name   string
	from   *routing.Frontend // the last that was seen of those that share it
	action routing.Action
	users  map[use]bool
	chains []string // that the kernel was told of
}

// use is a frontend's inside or outside verdict.
type use struct {
	key     routing.Key
	outside bool
}

// render gives all chains of the set. Backends on other nodes are drawn last, from marked
// packets: those of clients outside get this node's address. They need no chain of their
// own for that, which legacy's kernel would check at each change of any Service.
func (s *set) render(mark mark) map[string][]string {
	var local, remote []routing.Backend
	for _, b := range s.from.Of(s.action) {
		if b.Local {
			local = append(local, b)
		} else {
			remote = append(remote, b)
		}
	}
	d := &drawing{set: s, protocol: protocolOf(s.from.Key), out: map[string][]string{}}
	var rules []string
	if s.from.Affinity > 0 {
		rules = d.remembered(local, remote, mark)
	}
	rules = append(rules, d.draws(s.name, local, len(local)+len(remote))...)
	if len(remote) > 0 {
		rules = append(rules, mark.set())
		rules = append(rules, d.draws(s.name+"r", remote, len(remote))...)
	}
	d.out[s.name] = rules
	return d.out
}

type drawing struct {
	*set
	protocol string
	out      map[string][]string
}

// remembered leads clients that had a backend to it again, and renews their time.
func (d *drawing) remembered(local, remote []routing.Backend, mark mark) (rules []string) {
	seconds := strconv.Itoa(max(1, int(d.from.Affinity/time.Second)))
	rule := func(b routing.Backend) string {
		return d.rule("", "--update --seconds "+seconds+" --reap", b)
	}
	for _, b := range local {
		rules = append(rules, rule(b))
	}
	if len(remote) == 0 {
		return rules
	}
	rules = append(rules, mark.set())
	for _, b := range remote {
		rules = append(rules, rule(b))
	}
	return append(rules, mark.clear())
}

// rule translates to b; recent is what to do with the list of its clients.
func (d *drawing) rule(chance, recent string, b routing.Backend) string {
	if d.from.Affinity > 0 {
		mask := "255.255.255.255"
		if b.Addr().Is6() {
			mask = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
		}
		chance += "-m recent " + recent + " --name " + listName(d.from, b.String()) + " --mask " + mask + " --rsource "
	}
	return "-p " + d.protocol + " " + chance + "-j DNAT --to-destination " + b.AddrPort.String()
}

// draws gives the rules that draw evenly from some of the left backends, and makes the
// chains below them, whose names begin with below.
func (d *drawing) draws(below string, from []routing.Backend, left int) (rules []string) {
	if len(from) <= fan {
		for i, b := range from {
			rules = append(rules, d.rule(chance(1, left-i), "--set", b))
		}
		return rules
	}
	each := fan
	for each*fan < len(from) {
		each *= fan
	}
	for i := 0; len(from) > 0; i++ {
		group := from[:min(each, len(from))]
		name := below + strconv.FormatInt(int64(i), fan)
		rules = append(rules, chance(len(group), left)+"-j "+name)
		d.out[name] = d.draws(name, group, len(group))
		from, left = from[len(group):], left-len(group)
	}
	return rules
}

// chance matches n packets of m. The kernel has 31 bits of it (xt_statistic), which
// iptables-save prints so.
func chance(n, m int) string {
	if n == m {
		return ""
	}
	const full = 1 << 31
	p := math.Round(full * float64(n) / float64(m))
	return "-m statistic --mode random --probability " + strconv.FormatFloat(p/full, 'f', 11, 64) + " "
}

// mark is the bit that packets to backends on other nodes have until they leave.
type mark uint32

func (m mark) set() string   { return fmt.Sprintf("-j MARK --set-xmark 0x%x/0x%x", uint32(m), uint32(m)) }
func (m mark) clear() string { return fmt.Sprintf("-j MARK --set-xmark 0x0/0x%x", uint32(m)) }
func (m mark) match() string { return fmt.Sprintf("-m mark --mark 0x%x/0x%x", uint32(m), uint32(m)) }
