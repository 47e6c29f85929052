package routing

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

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

// anyTopology is the key that fits every endpoint.
const anyTopology = "*"

// byKeys keeps the candidates that the first fitting key allows, none when no key
// fits: the legacy field topologyKeys (KEP-536). A key fits the endpoints whose
// node has this node's value of that label, when one of them is ready; if nobody
// is ready anywhere in the keys' reach, one that serves while it terminates
// will do.
func byKeys(node *catalog.Node, keys []string, all []candidate) []candidate {
	for _, usable := range []func(*candidate) bool{
		func(b *candidate) bool { return b.Ready },
		func(b *candidate) bool { return b.Serving && b.Terminating },
	} {
		for _, key := range keys {
			var fitting []candidate
			found := false
			for i := range all {
				if b := &all[i]; sameTopology(node, key, b) {
					fitting = append(fitting, *b)
					found = found || usable(b)
				}
			}
			if found {
				return fitting
			}
		}
	}
	return nil
}

// sameTopology reports whether an endpoint's node has this node's value of a
// label. Of other nodes only the zone is known here, which lies in one region;
// an endpoint on this node shares all its labels.
func sameTopology(node *catalog.Node, key string, b *candidate) bool {
	if key == anyTopology {
		return true
	}
	if _, ok := node.Labels[key]; !ok {
		return false
	}
	switch key {
	case corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion:
		return b.Local || node.Zone != "" && b.Zone == node.Zone
	}
	return b.Local
}
