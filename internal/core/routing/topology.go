package routing

import (
	"net/netip"
	"slices"

	"portico.dev/portico/internal/core/catalog"
)

func candidateOf(node *catalog.Node, e *catalog.Endpoint, port uint16) candidate {
	return candidate{
		Backend: Backend{
			AddrPort: netip.AddrPortFrom(e.Addr, port), Node: e.Node, Zone: e.Zone,
			Local: e.Node != "" && e.Node == node.Name,
			Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating,
		},
		nodeHints: e.NodeHints, zoneHints: e.ZoneHints,
	}
}

// nearest keeps the candidates that hints keep for this node, else for its zone,
// else all. A kind of hint counts only when every ready endpoint has one and
// one of them fits: otherwise somebody is in the middle of writing them, or this
// node is new, and any endpoint is better than none (KEP-2433, KEP-4444).
func nearest(node *catalog.Node, all []candidate) []candidate {
	byNode := hinted(all, node.Name, func(b *candidate) []string { return b.nodeHints })
	if byNode != nil {
		return byNode
	}
	if byZone := hinted(all, node.Zone, func(b *candidate) []string { return b.zoneHints }); byZone != nil {
		return byZone
	}
	return all
}

// hinted gives the candidates whose hints name want, nil when hints of this kind
// don't count. Endpoints that aren't ready may lack hints.
func hinted(all []candidate, want string, hints func(*candidate) []string) []candidate {
	if want == "" {
		return nil
	}
	var out []candidate
	fits := false
	for i := range all {
		b := &all[i]
		h := hints(b)
		if b.Ready && len(h) == 0 {
			return nil
		}
		if slices.Contains(h, want) {
			out = append(out, *b)
			fits = fits || b.Ready
		}
	}
	if !fits {
		return nil
	}
	return out
}
