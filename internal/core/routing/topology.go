package routing

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
)

// nearest marks the candidates that hints keep for this node, else for its zone,
// else all, and gives the reason of those that it doesn't mark. A kind of hint counts
// only when every ready endpoint has one and one of them fits: otherwise somebody is
// in the middle of writing them, or this node is new, and any endpoint is better than
// none (KEP-2433, KEP-4444).
func (c *Computer) nearest(node *catalog.Node) Reason {
	switch {
	case c.mark(node.Name, nodeHints):
		return OtherNode
	case c.mark(node.Zone, zoneHints):
		return OtherZone
	}
	for i := range c.all {
		c.all[i].near = true
	}
	return OtherTopology
}

func nodeHints(e *catalog.Endpoint) []string { return e.NodeHints }
func zoneHints(e *catalog.Endpoint) []string { return e.ZoneHints }

// mark marks the candidates whose hints name want; false: hints of this kind don't
// count. Endpoints that aren't ready may lack hints.
func (c *Computer) mark(want string, hints func(*catalog.Endpoint) []string) bool {
	if want == "" {
		return false
	}
	fits := false
	for i := range c.all {
		b := &c.all[i]
		h := hints(b.endpoint)
		if b.endpoint.Ready && len(h) == 0 {
			return false
		}
		b.near = slices.Contains(h, want)
		fits = fits || b.near && b.endpoint.Ready
	}
	return fits
}

// anyTopology is the key that fits every endpoint.
const anyTopology = "*"

// byKeys marks the candidates that the first fitting key allows, none when no key
// fits: the legacy field topologyKeys (KEP-536). A key fits the endpoints whose
// node has this node's value of that label, when one of them is ready; if nobody
// is ready anywhere in the keys' reach, one that serves while it terminates
// will do.
func (c *Computer) byKeys(node *catalog.Node, keys []string) {
	for _, usable := range []func(*candidate) bool{func(b *candidate) bool { return b.endpoint.Ready }, servesToTheEnd} {
		for _, key := range keys {
			found := false
			for i := range c.all {
				b := &c.all[i]
				b.near = sameTopology(node, key, b)
				found = found || b.near && usable(b)
			}
			if found {
				return
			}
		}
	}
	for i := range c.all {
		c.all[i].near = false
	}
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
		return b.local || node.Zone != "" && b.endpoint.Zone == node.Zone
	}
	return b.local
}
