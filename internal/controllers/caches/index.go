package caches

import (
	"fmt"
	"hash/fnv"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// buckets is how many sets an index has. A lookup in an index of 10,000 objects finds ten,
// of which it takes its own.
const buckets = 1024

// Bucket is the key of an index whose values are nearly all different: a set for each of
// them would cost as much as the objects. A lookup finds others' objects too.
func Bucket(value string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(value)) // it never fails
	n := h.Sum32() % buckets
	return string([]byte{byte(n >> 8), byte(n)})
}

// byService is the index of slices by the Service that they name.
const byService = "service"

// SlicesByService is the index that SlicesOf needs. Controllers share it.
func SlicesByService() cache.Indexers {
	return cache.Indexers{byService: func(obj any) ([]string, error) {
		if service := ServiceOf(obj.(*discoveryv1.EndpointSlice)); service.Name != "" {
			return []string{Bucket(service.String())}, nil
		}
		return nil, nil
	}}
}

// SlicesOf are the slices that name the Service.
func SlicesOf(slices cache.Indexer, service types.NamespacedName) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := slices.ByIndex(byService, Bucket(service.String()))
	if err != nil {
		return nil, fmt.Errorf("look up slices of Service %s: %w", service, err)
	}
	var out []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if s := obj.(*discoveryv1.EndpointSlice); ServiceOf(s) == service {
			out = append(out, s)
		}
	}
	return out, nil
}

// ServiceOf is the Service that a slice names; its name is empty where there is none.
func ServiceOf(s *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}
