package routing

import (
	"cmp"
	"slices"

	"portico.dev/portico/internal/core/catalog"
)

// choice is the backend sets of one Service port in one family, and what the
// verdicts must know besides.
type choice struct {
	Sets
	usable bool // some endpoint anywhere could serve, wherever it is
}

// Reasons for which an endpoint is left out.
const (
	leftNotReady     = "not ready"
	leftNotServing   = "terminating and no longer serving"
	leftTerminating  = "terminating, and ready ones exist"
	leftTopology     = "its hints keep it for other nodes or zones"
	leftTopologyKeys = "the topology keys prefer others, or don't allow it"
)

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
func choose(node *catalog.Node, keys []string, port catalog.ServicePort, all []*catalog.Slice, v6 bool) *choice {
	candidates := gather(node, port, all, v6)
	c := &choice{}
	near, left := nearest(node, candidates), leftTopology
	if len(keys) > 0 {
		near, left = byKeys(node, keys, candidates), leftTopologyKeys
	}
	c.Cluster = fallBack(near, func(*candidate) bool { return true })
	c.Local = fallBack(candidates, func(b *candidate) bool { return b.Local })
	c.usable = len(fallBack(candidates, func(*candidate) bool { return true })) > 0

	in := map[string]bool{}
	for _, set := range [][]Backend{c.Cluster, c.Local} {
		for i := range set {
			in[set[i].String()] = true
		}
	}
	for i := range candidates {
		if b := &candidates[i]; !in[b.String()] {
			c.LeftOut = append(c.LeftOut, LeftOut{Backend: b.Backend, Reason: b.whyLeftOut(left)})
		}
	}
	return c
}

// candidate is a backend with what the choice needs besides.
type candidate struct {
	Backend
	nodeHints, zoneHints []string
}

// whyLeftOut gives the reason, which for a ready one is that of topology.
func (b *candidate) whyLeftOut(topology string) string {
	switch {
	case b.Ready:
		return topology
	case b.Terminating && b.Serving:
		return leftTerminating
	case b.Terminating:
		return leftNotServing
	}
	return leftNotReady
}

// rank orders the states of one endpoint that two slices list at once, which
// happens while an endpoint moves between slices: the better state counts.
func (b *candidate) rank() int {
	switch {
	case b.Ready:
		return 2
	case b.Serving:
		return 1
	}
	return 0
}

// gather lists the endpoints that answer on a Service port, sorted and without
// duplicates. Slice ports belong to Service ports by name and protocol.
func gather(node *catalog.Node, port catalog.ServicePort, all []*catalog.Slice, v6 bool) []candidate {
	var out []candidate
	for _, s := range all {
		if s.IPv6 != v6 {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Name != port.Name || sp.Protocol != port.Protocol {
				continue
			}
			for i := range s.Endpoints {
				if e := &s.Endpoints[i]; e.Addr.Is6() == v6 {
					out = append(out, candidateOf(node, e, sp.Port))
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b candidate) int {
		return cmp.Or(a.Compare(b.AddrPort), cmp.Compare(b.rank(), a.rank()), cmp.Compare(a.Node, b.Node))
	})
	return slices.CompactFunc(out, func(a, b candidate) bool { return a.AddrPort == b.AddrPort })
}

// fallBack gives the ready backends among those that keep allows, else the ones
// that serve while they terminate.
func fallBack(from []candidate, keep func(*candidate) bool) []Backend {
	var ready, terminating []Backend
	for i := range from {
		b := &from[i]
		switch {
		case !keep(b):
		case b.Ready:
			ready = append(ready, b.Backend)
		case b.Serving && b.Terminating:
			terminating = append(terminating, b.Backend)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return terminating
}

// cluster is the verdict "the cluster set", or reject when it is empty.
func (c *choice) cluster(masquerade bool) Verdict {
	if len(c.Cluster) == 0 {
		if c.usable {
			return Verdict{Action: Reject, Reason: "no endpoint fits the topology keys"}
		}
		return Verdict{Action: Reject, Reason: "no endpoint is ready"}
	}
	return Verdict{Action: ToCluster, Masquerade: masquerade}
}

// local is the verdict "the local set". When it is empty and other nodes have
// usable endpoints the packet is dropped, because the client's next try may be
// sent there; with none anywhere it is rejected.
func (c *choice) local(policy string) Verdict {
	switch {
	case len(c.Local) > 0:
		return Verdict{Action: ToLocal, Reason: policy + " is Local"}
	case c.usable:
		return Verdict{Action: Drop, Reason: policy + " is Local and usable endpoints are on other nodes only"}
	}
	return Verdict{Action: Reject, Reason: "no endpoint is ready"}
}
