package routing

import (
	"slices"

	"portico.dev/portico/internal/core/catalog"
)

// MaxBackends is how many backends a set may have. Each costs every back end one
// element for each frontend, so that one Service could fill the kernel's memory;
// and their targets count in 16 bits. It is ten slices of the largest size the API
// takes.
const MaxBackends = 10_000

// choice is the backend sets of one Service port in one family, and what the
// verdicts must know besides.
type choice struct {
	*Sets
	usable bool // some endpoint anywhere could serve, wherever it is
}

// choose fills the sets:
//
// The cluster set has every ready endpoint that topology allows: by hints, or by
// the Service's legacy topology keys where it has some. When no
// endpoint is ready it has those that still serve while they terminate, so that
// a rolling update without overlap loses nothing (KEP-1669).
//
// The local set is chosen likewise among this node's endpoints alone, without
// regard to topology.
//
// An endpoint that is in neither set is left out with a reason.
func (c *Computer) choose(sets *Sets, node *catalog.Node, keys []string, port catalog.ServicePort, from []*catalog.Slice, v6 bool) choice {
	c.gather(node, port, from, v6)
	why := OtherTopology
	if len(keys) > 0 {
		c.byKeys(node, keys)
	} else {
		why = c.nearest(node)
	}
	cluster, local := pick{may: isNear}, pick{may: isLocal}
	both, any := pick{may: isNearAndLocal}, pick{may: isAny}
	for i := range c.all {
		b := &c.all[i]
		cluster.count(b)
		local.count(b)
		both.count(b)
		any.count(b)
	}
	sets.Cluster = cluster.take(c.all)
	if both.covers(&cluster) && both.covers(&local) {
		sets.Local = sets.Cluster // a cluster of one node has all endpoints here
	} else {
		sets.Local = local.take(c.all)
	}
	c.leaveRest(&cluster, &local, why)
	if len(c.left) > 0 {
		slices.SortFunc(c.left, compareLeftOut)
		sets.LeftOut = slices.Clone(c.left)
	}
	return choice{sets, any.size() > 0}
}

// leaveRest notes the candidates that are in neither set.
func (c *Computer) leaveRest(cluster, local *pick, topology Reason) {
	cluster.taken, local.taken = 0, 0
	for i := range c.all {
		b := &c.all[i]
		inCluster, inLocal := cluster.next(b), local.next(b)
		switch {
		case inCluster || inLocal:
		case cluster.has(b) || local.has(b):
			c.leave(b, TooMany)
		default:
			c.leave(b, b.whyLeftOut(topology))
		}
	}
}

func isNear(b *candidate) bool         { return b.near }
func isLocal(b *candidate) bool        { return b.local }
func isNearAndLocal(b *candidate) bool { return b.near && b.local }
func isAny(*candidate) bool            { return true }

// servesToTheEnd reports whether an endpoint may be used when none is ready.
func servesToTheEnd(b *candidate) bool { return b.endpoint.Serving && b.endpoint.Terminating }

// pick is one set while it is chosen: the ready ones among those it may have, else
// the ones that serve while they terminate, at most MaxBackends.
type pick struct {
	may                func(*candidate) bool
	ready, terminating int
	taken              int
}

func (p *pick) count(b *candidate) {
	switch {
	case !p.may(b):
	case b.endpoint.Ready:
		p.ready++
	case servesToTheEnd(b):
		p.terminating++
	}
}

// has reports whether the set has b, its size aside.
func (p *pick) has(b *candidate) bool {
	if !p.may(b) {
		return false
	}
	if p.ready > 0 {
		return b.endpoint.Ready
	}
	return servesToTheEnd(b)
}

// next is has for all candidates in turn, and counts.
func (p *pick) next(b *candidate) bool {
	if p.taken == MaxBackends || !p.has(b) {
		return false
	}
	p.taken++
	return true
}

// covers reports whether p, which may have less than q, has all that q has.
func (p *pick) covers(q *pick) bool {
	return p.ready == q.ready && (p.ready > 0 || p.terminating == q.terminating)
}

func (p *pick) size() int {
	n := p.ready
	if n == 0 {
		n = p.terminating
	}
	return min(n, MaxBackends)
}

func (p *pick) take(all []candidate) []Backend {
	if p.size() == 0 {
		return nil
	}
	out := make([]Backend, 0, p.size())
	for i := range all {
		if p.next(&all[i]) {
			out = append(out, all[i].backend())
		}
	}
	return out
}

// whyLeftOut gives the reason of one that no set may have; topology is that of a
// ready one.
func (c *candidate) whyLeftOut(topology Reason) Reason {
	switch e := c.endpoint; {
	case e.Ready:
		return topology
	case e.Terminating && e.Serving:
		return Terminating
	case e.Terminating:
		return NotServing
	}
	return NotReady
}

// cluster is the verdict "the cluster set", or reject when it is empty.
func (c *choice) cluster(masquerade bool) Verdict {
	if len(c.Cluster) == 0 {
		if c.usable {
			return Verdict{Action: Reject, Reason: NoneNear}
		}
		return Verdict{Action: Reject, Reason: NoneReady}
	}
	return Verdict{Action: ToCluster, Masquerade: masquerade}
}

// local is the verdict "the local set". When it is empty and other nodes have
// usable endpoints the packet is dropped, because the client's next try may be
// sent there; with none anywhere it is rejected.
func (c *choice) local(policy, elsewhere Reason) Verdict {
	switch {
	case len(c.Local) > 0:
		return Verdict{Action: ToLocal, Reason: policy}
	case c.usable:
		return Verdict{Action: Drop, Reason: elsewhere}
	}
	return Verdict{Action: Reject, Reason: NoneReady}
}
