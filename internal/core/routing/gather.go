package routing

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"portico.dev/portico/internal/core/catalog"
)

// candidate is an endpoint on one port while the sets are chosen.
type candidate struct {
	at       netip.AddrPort
	endpoint *catalog.Endpoint
	local    bool // on the node that is computed for
	near     bool // topology allows it
}

func (c *candidate) backend() Backend {
	e := c.endpoint
	return Backend{
		AddrPort: c.at, Node: e.Node, Zone: e.Zone, Local: c.local,
		Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating,
	}
}

// rank orders the states of one endpoint that two slices list at once, which
// happens while an endpoint moves between slices: the better state counts.
func (c *candidate) rank() int {
	switch e := c.endpoint; {
	case e.Ready:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

// order sorts candidates by address and port, and the copies of one by what
// counts and then by all that the sets and the choice could show: so the order of
// slices and of their endpoints never does.
func order(a, b *candidate) int {
	if c := a.at.Compare(b.at); c != 0 {
		return c
	}
	x, y := a.endpoint, b.endpoint
	return cmp.Or(
		cmp.Compare(b.rank(), a.rank()),
		strings.Compare(x.Node, y.Node), strings.Compare(x.Zone, y.Zone),
		compareBool(x.Serving, y.Serving), compareBool(x.Terminating, y.Terminating),
		slices.Compare(x.NodeHints, y.NodeHints), slices.Compare(x.ZoneHints, y.ZoneHints),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// gather fills c.all with the endpoints that answer on a Service port, sorted and
// without duplicates, and notes those that can't be used at all. Slice ports belong
// to Service ports by name and protocol.
func (c *Computer) gather(node *catalog.Node, port catalog.ServicePort, from []*catalog.Slice, v6 bool) {
	c.all, c.left, c.runs = c.all[:0], c.left[:0], c.runs[:0]
	for _, s := range from {
		if s.IPv6 != v6 {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Name != port.Name || sp.Protocol != port.Protocol {
				continue
			}
			for i := range s.Endpoints {
				c.push(candidateOf(node, &s.Endpoints[i], sp.Port))
			}
			for i := range s.Faults {
				if f := &s.Faults[i]; f.Endpoint != nil {
					one := candidateOf(node, f.Endpoint, sp.Port)
					c.leave(&one, faultReasons[f.Reason])
				}
			}
		}
	}
	c.merge()
	c.unique()
}

var faultReasons = map[catalog.FaultReason]Reason{catalog.BadAddress: BadAddress, catalog.WrongFamily: WrongFamily}

func candidateOf(node *catalog.Node, e *catalog.Endpoint, port uint16) candidate {
	return candidate{at: netip.AddrPortFrom(e.Addr, port), endpoint: e, local: e.Node != "" && e.Node == node.Name}
}

// push appends a candidate and notes where a sorted run begins. A slice's
// endpoints come in order, so it is one run.
func (c *Computer) push(next candidate) {
	if n := len(c.all); n == 0 || order(&c.all[n-1], &next) > 0 {
		c.runs = append(c.runs, n)
	}
	c.all = append(c.all, next)
}

// merge sorts c.all by merging its runs two by two: a comparison for each endpoint
// and doubling of the slices, where a sort would need one for each doubling of the
// endpoints.
func (c *Computer) merge() {
	for len(c.runs) > 1 {
		out, runs := c.spare[:0], c.runs[:0]
		for i := 0; i < len(c.runs); i += 2 {
			from, mid, to := c.runs[i], c.end(i), c.end(i+1)
			// runs is written over c.runs, behind what is still to be read.
			runs = append(runs, from)
			for x, y := from, mid; x < mid || y < to; {
				if y == to || x < mid && order(&c.all[x], &c.all[y]) <= 0 {
					out = append(out, c.all[x])
					x++
				} else {
					out = append(out, c.all[y])
					y++
				}
			}
		}
		c.all, c.spare, c.runs = out, c.all, runs
	}
}

// end is where run i ends.
func (c *Computer) end(i int) int {
	if i+1 < len(c.runs) {
		return c.runs[i+1]
	}
	return len(c.all)
}

// unique keeps the first of the candidates with one address and port.
func (c *Computer) unique() {
	out := c.all[:0]
	for i := range c.all {
		if n := len(out); n > 0 && out[n-1].at == c.all[i].at {
			c.leave(&c.all[i], Duplicate)
			continue
		}
		out = append(out, c.all[i])
	}
	c.all = out
}

func (c *Computer) leave(b *candidate, why Reason) {
	c.left = append(c.left, LeftOut{b.backend(), why})
}

// compareLeftOut is a total order. Of one address and port the copy that counts comes
// before its duplicates: its reason has the smaller number.
func compareLeftOut(a, b LeftOut) int {
	return cmp.Or(
		a.Compare(b.AddrPort), cmp.Compare(a.Reason, b.Reason),
		strings.Compare(a.Node, b.Node), strings.Compare(a.Zone, b.Zone),
		compareBool(a.Ready, b.Ready), compareBool(a.Serving, b.Serving), compareBool(a.Terminating, b.Terminating),
	)
}
