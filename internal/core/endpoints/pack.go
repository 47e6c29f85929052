package endpoints

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// bin is one slice while its content is being decided.
type bin struct {
	slice *discoveryv1.EndpointSlice // nil: to be created
	ids   []string
	dirty bool // it must be written whatever else happens
}

func (b *bin) room(limit int) int { return limit - len(b.ids) }

// pack spreads a set's endpoints over its slices, at most limit in each (EP-02).
// Who has a place keeps it. New endpoints go where a write is needed anyway,
// then into the one slice that takes them all and is left with the least room,
// then into new slices. At least one bin comes back.
func pack(set *endpointSet, existing []*discoveryv1.EndpointSlice, limit int) []*bin {
	bins, homeless := keepPlaces(set, existing, limit)
	homeless = fill(bins, homeless, limit)
	for len(homeless) > 0 {
		n := min(limit, len(homeless))
		bins = append(bins, &bin{ids: homeless[:n:n], dirty: true})
		homeless = homeless[n:]
	}
	bins = slices.DeleteFunc(bins, func(b *bin) bool { return len(b.ids) == 0 && len(set.endpoints) > 0 })
	bins = merge(bins, len(set.endpoints), limit)
	if len(bins) == 0 {
		bins = []*bin{{dirty: true}}
	}
	if len(set.endpoints) == 0 {
		bins = bins[:1]
	}
	return bins
}

// keepPlaces makes a bin of each existing slice with those of its endpoints that
// are still wanted, and lists the wanted ones that have no place.
func keepPlaces(set *endpointSet, existing []*discoveryv1.EndpointSlice, limit int) ([]*bin, []string) {
	placed := make(map[string]bool, len(set.endpoints))
	bins := make([]*bin, 0, len(existing)+1)
	for _, slice := range existing {
		b := &bin{slice: slice}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			id := identity(e)
			want, ok := set.endpoints[id]
			if !ok || placed[id] || b.room(limit) == 0 {
				b.dirty = true
				continue
			}
			placed[id] = true
			b.ids = append(b.ids, id)
			b.dirty = b.dirty || !sameEndpoint(e, &want)
		}
		bins = append(bins, b)
	}
	var homeless []string
	for _, id := range slices.Sorted(maps.Keys(set.endpoints)) {
		if !placed[id] {
			homeless = append(homeless, id)
		}
	}
	return bins, homeless
}

// fill puts ids into bins with room and gives back those that found none.
func fill(bins []*bin, ids []string, limit int) []string {
	for _, b := range bins {
		if b.dirty {
			n := min(b.room(limit), len(ids))
			b.ids = append(b.ids, ids[:n]...)
			ids = ids[n:]
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var best *bin
	for _, b := range bins {
		if b.room(limit) >= len(ids) && (best == nil || b.room(limit) < best.room(limit)) {
			best = b
		}
	}
	if best == nil {
		return ids
	}
	best.ids = append(best.ids, ids...)
	best.dirty = true
	return nil
}

// merge dissolves slices that aren't needed any more, the smallest first. A
// tenth of a slice must stay free after it: otherwise one pod that comes and
// goes, as in a rolling update, would split and merge slices for ever.
func merge(bins []*bin, n, limit int) []*bin {
	for len(bins) > 1 && n+limit/10 <= (len(bins)-1)*limit {
		last := slices.IndexFunc(bins, func(b *bin) bool { return b == smallest(bins) })
		ids := bins[last].ids
		bins = slices.Delete(bins, last, last+1)
		for _, b := range byNeed(bins) {
			k := min(b.room(limit), len(ids))
			if k == 0 {
				continue
			}
			b.ids = append(b.ids, ids[:k]...)
			b.dirty = true
			ids = ids[k:]
		}
	}
	return bins
}

// smallest prefers, of equals, one that doesn't exist yet.
func smallest(bins []*bin) *bin {
	return slices.MinFunc(bins, func(a, b *bin) int {
		return cmp.Or(cmp.Compare(len(a.ids), len(b.ids)), cmp.Compare(exists(a), exists(b)))
	})
}

// byNeed orders bins for filling: first those that are written anyway, then
// those with the most room, so that few are touched.
func byNeed(bins []*bin) []*bin {
	return slices.SortedStableFunc(slices.Values(bins), func(a, b *bin) int {
		if a.dirty != b.dirty {
			if a.dirty {
				return -1
			}
			return 1
		}
		return cmp.Compare(len(a.ids), len(b.ids))
	})
}

func exists(b *bin) int {
	if b.slice == nil {
		return 0
	}
	return 1
}

// sameEndpoint compares all that we write. The resource version of a target is
// left out: we set none, and other writers' say nothing about the endpoint. It is
// written out because reflection took most of the time of a large Service.
func sameEndpoint(a, b *discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) &&
		same(a.Conditions.Ready, b.Conditions.Ready) &&
		same(a.Conditions.Serving, b.Conditions.Serving) &&
		same(a.Conditions.Terminating, b.Conditions.Terminating) &&
		same(a.Hostname, b.Hostname) &&
		same(a.NodeName, b.NodeName) &&
		same(a.Zone, b.Zone) &&
		len(a.DeprecatedTopology) == 0 && // a field of the beta API that is never written
		sameTarget(a.TargetRef, b.TargetRef) &&
		sameHints(a.Hints, b.Hints)
}

func same[T comparable](a, b *T) bool {
	return a == b || (a != nil && b != nil && *a == *b)
}

func sameTarget(a, b *corev1.ObjectReference) bool {
	if a == nil || b == nil {
		return a == b
	}
	c := *a
	c.ResourceVersion = b.ResourceVersion
	return c == *b
}

func sameHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
}
