package agent

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"portico.dev/portico/internal/core/catalog"
)

// manyNames bounds what names remembers: some thousands of nodes are the most that a
// Kubernetes cluster is made for, and a node's name may come and never come again.
const manyNames = 20_000

// names holds one copy of each text that many endpoints share: nodes and zones. The
// API's decoder makes one for each endpoint.
type names struct{ known map[string]string }

func newNames() *names { return &names{known: map[string]string{}} }

// one gives the copy that everybody shares.
func (n *names) one(s string) string {
	if shared, ok := n.known[s]; ok {
		return shared
	}
	if len(n.known) == manyNames {
		n.known = map[string]string{} // who has the old copies keeps them
	}
	n.known[s] = s
	return s
}

// fromSlice makes the compact value of an EndpointSlice.
func (n *names) fromSlice(es *discoveryv1.EndpointSlice) *catalog.Slice {
	s := catalog.FromSlice(es)
	if s == nil {
		return nil
	}
	for i := range s.Ports {
		s.Ports[i].Name = n.one(s.Ports[i].Name)
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		e.Node, e.Zone = n.one(e.Node), n.one(e.Zone)
		n.all(e.NodeHints)
		n.all(e.ZoneHints)
	}
	return s
}

func (n *names) all(list []string) {
	for i := range list {
		list[i] = n.one(list[i])
	}
}
