package agent

import (
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// state is the last that the watches said, and what the consumers don't know of
// it yet. It forgets nothing when the API is away: packets go on by it.
type state struct {
	news chan struct{} // capacity 1: there is something to hand over

	sync.Mutex // guards the following
	services   map[types.NamespacedName]*catalog.Service
	slices     map[types.NamespacedName][]*catalog.Slice     // by Service; nearly always one or two
	owner      map[types.NamespacedName]types.NamespacedName // of a slice: its Service
	node       *catalog.Node
	cidrs      map[types.NamespacedName][]netip.Prefix // by ServiceCIDR
	listed     [resources]bool                         // the first list is here
	dirty      map[types.NamespacedName]bool
	all        bool // the consumers need a Replace
	moved      bool // cidrs aren't what was handed over
}

// The resources that must be listed before anything is handed over: with half of
// them a consumer would take living Services away.
const (
	listedServices = iota
	listedSlices
	listedNode
	listedCIDRs
	resources
)

func newState(nodeName string) *state {
	return &state{
		news: make(chan struct{}, 1), services: map[types.NamespacedName]*catalog.Service{},
		slices: map[types.NamespacedName][]*catalog.Slice{}, owner: map[types.NamespacedName]types.NamespacedName{},
		node: &catalog.Node{Name: nodeName}, cidrs: map[types.NamespacedName][]netip.Prefix{},
		dirty: map[types.NamespacedName]bool{}, all: true, moved: true,
	}
}

// first notes that a resource's first list is here. The lock is held.
func (s *state) first(n int) { s.listed[n] = true }

// wake tells that there may be news. The lock is held.
func (s *state) wake() {
	if slices.Contains(s.listed[:], false) || !s.all && !s.moved && len(s.dirty) == 0 {
		return
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// putService takes a Service, nil for a deleted one. The lock is held.
func (s *state) putService(name types.NamespacedName, svc *catalog.Service) {
	old := s.services[name]
	switch {
	case svc == nil && old == nil, svc != nil && old != nil && reflect.DeepEqual(svc, old):
		return
	case svc == nil:
		delete(s.services, name)
	default:
		s.services[name] = svc
	}
	s.dirty[name] = true
}

// putSlice takes a slice, nil for one that is deleted or none of ours. The lock is held.
func (s *state) putSlice(name types.NamespacedName, slice *catalog.Slice) {
	if owner, ok := s.owner[name]; ok {
		all := s.slices[owner]
		at := slices.IndexFunc(all, func(o *catalog.Slice) bool { return o.Name == name })
		if slice != nil && slice.Service == owner && sameSlice(all[at], slice) {
			return
		}
		delete(s.owner, name)
		if all = slices.Delete(all, at, at+1); len(all) == 0 {
			delete(s.slices, owner)
		} else {
			s.slices[owner] = all
		}
		s.dirty[owner] = true
	}
	if slice == nil {
		return
	}
	s.slices[slice.Service] = append(s.slices[slice.Service], slice)
	s.owner[name] = slice.Service
	s.dirty[slice.Service] = true
}

// sameSlice compares what a consumer acts on; a new trigger time alone is no news.
func sameSlice(a, b *catalog.Slice) bool {
	if len(a.Faults)+len(b.Faults) > 0 { // seldom
		x, y := *a, *b
		x.Trigger, y.Trigger = time.Time{}, time.Time{}
		return reflect.DeepEqual(x, y)
	}
	return a.Name == b.Name && a.Service == b.Service && a.IPv6 == b.IPv6 && slices.Equal(a.Ports, b.Ports) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, sameEndpoint)
}

func sameEndpoint(a, b catalog.Endpoint) bool {
	return a.Addr == b.Addr && a.Node == b.Node && a.Zone == b.Zone && a.Hostname == b.Hostname &&
		a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
		slices.Equal(a.NodeHints, b.NodeHints) && slices.Equal(a.ZoneHints, b.ZoneHints)
}

// putNode takes the Node. A deleted one stays as it was: the node that we run on
// is alive, whatever the API holds of it. The lock is held.
func (s *state) putNode(n *catalog.Node) {
	if n != nil && !reflect.DeepEqual(n, s.node) {
		s.node, s.all = n, true
	}
}

// view gives a Service as it is. The lock is held.
func (s *state) view(name types.NamespacedName) View {
	return View{Name: name, Service: s.services[name], Slices: slices.Clone(s.slices[name])}
}

// handOver gives the consumers what they don't know, the ranges first: Services
// come in ranges that are known. Changes that come meanwhile are collected for the
// next time.
func (s *state) handOver(ranges Ranges, consumers []Consumer) {
	s.Lock()
	all, node := s.all, s.node
	var union []netip.Prefix
	moved := s.moved
	if moved {
		union = join(s.cidrs)
	}
	var views []View
	if all {
		for name := range s.services {
			views = append(views, s.view(name))
		}
	} else {
		for name := range s.dirty {
			views = append(views, s.view(name))
		}
	}
	s.all, s.moved, s.dirty = false, false, map[types.NamespacedName]bool{}
	s.Unlock()
	if moved {
		ranges.handOver(union)
	}
	for _, c := range consumers {
		switch {
		case all:
			c.Replace(node, views)
		case len(views) > 0:
			c.Update(views)
		}
	}
}
