// Package resources asks an API server which kinds of objects it serves, for the
// controllers that treat all kinds alike (garbage, namespaces).
//
// In: discovery. Out: a Served value that never changes. What discovery failed
// to say is kept as such: absent and unknown are different answers.
package resources

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Resource is one kind of object as one version of the API serves it.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	Verbs      metav1.Verbs
}

// Can says whether the resource has all the verbs.
func (r Resource) Can(verbs ...string) bool {
	for _, v := range verbs {
		if !slices.Contains(r.Verbs, v) {
			return false
		}
	}
	return true
}

// Served is what an API server serves.
type Served struct {
	// Preferred has each resource once, in the version that its group prefers,
	// ordered by group and name. Subresources are left out.
	Preferred []Resource
	byKind    map[schema.GroupVersionKind]Resource
	failed    map[schema.GroupVersion]error
}

// Discover asks for everything, past any cache. An error means that nothing is
// known; a group that alone can't be read is in Failed.
func Discover(ctx context.Context, d discovery.DiscoveryInterface) (*Served, error) {
	if cached, ok := d.(discovery.CachedDiscoveryInterface); ok {
		cached.Invalidate()
	}
	groups, lists, err := discovery.ServerGroupsAndResourcesWithContext(ctx, discovery.ToDiscoveryInterfaceWithContext(d))
	failed, partial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil && !partial {
		return nil, fmt.Errorf("discover the API's resources: %w", err)
	}
	s := &Served{byKind: map[schema.GroupVersionKind]Resource{}, failed: failed}
	byVersion := map[string][]Resource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("discover the API's resources: %w", err)
		}
		byVersion[list.GroupVersion] = s.addVersion(gv, list)
	}
	s.prefer(groups, byVersion)
	return s, nil
}

func (s *Served) addVersion(gv schema.GroupVersion, list *metav1.APIResourceList) []Resource {
	var out []Resource
	for i := range list.APIResources {
		ar := &list.APIResources[i]
		if strings.Contains(ar.Name, "/") {
			continue
		}
		r := Resource{GroupVersionResource: gv.WithResource(ar.Name), Kind: ar.Kind, Namespaced: ar.Namespaced, Verbs: ar.Verbs}
		out = append(out, r)
		s.byKind[gv.WithKind(ar.Kind)] = r
	}
	return out
}

// prefer picks one version for each resource: the group's preferred one, or the
// first that has it.
func (s *Served) prefer(groups []*metav1.APIGroup, byVersion map[string][]Resource) {
	chosen := map[schema.GroupResource]Resource{}
	for _, g := range groups {
		versions := append([]metav1.GroupVersionForDiscovery{g.PreferredVersion}, g.Versions...)
		for _, v := range versions {
			for _, r := range byVersion[v.GroupVersion] {
				if _, ok := chosen[r.GroupResource()]; !ok {
					chosen[r.GroupResource()] = r
				}
			}
		}
	}
	s.Preferred = slices.SortedFunc(maps.Values(chosen), func(a, b Resource) int {
		return strings.Compare(a.Group+"/"+a.Resource, b.Group+"/"+b.Resource)
	})
}

// ForKind is the resource that holds objects of a kind. A version that isn't
// served any more is answered with another of the same group.
func (s *Served) ForKind(kind schema.GroupVersionKind) (Resource, bool) {
	if r, ok := s.byKind[kind]; ok {
		return r, true
	}
	at := slices.IndexFunc(s.Preferred, func(r Resource) bool {
		return r.Group == kind.Group && r.Kind == kind.Kind
	})
	if at < 0 {
		return Resource{}, false
	}
	return s.Preferred[at], true
}

// Failed lists the versions that discovery knows of but couldn't read, or is
// empty. What they serve is unknown.
func (s *Served) Failed() map[schema.GroupVersion]error { return s.failed }

// FailedGroup says whether some version of the group couldn't be read.
func (s *Served) FailedGroup(group string) bool {
	for gv := range s.failed {
		if gv.Group == group {
			return true
		}
	}
	return false
}
