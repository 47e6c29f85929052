package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Ranges says who takes the ranges of cluster IPs. A ServiceCIDR counts until it is
// gone: one that ends gives no more addresses (KEP-1880), but may have Services.
type Ranges struct {
	// Default are the ranges where the API has no ServiceCIDR: its version is
	// older than Kubernetes 1.33, or the only one is just being made again.
	Default []netip.Prefix
	// To is called as a Consumer's methods are, before the Services that came
	// with the ranges: at first before Replace, then at each change. The ranges
	// are sorted and have no address in common. nil: nobody wants them.
	To func(ranges []netip.Prefix)
}

func (r Ranges) handOver(ranges []netip.Prefix) {
	if r.To == nil {
		return
	}
	if len(ranges) == 0 {
		ranges = r.Default
	}
	r.To(ranges)
}

// putCIDR takes a ServiceCIDR's ranges, nil for one that is gone. The lock is held.
func (s *state) putCIDR(name types.NamespacedName, ranges []netip.Prefix) {
	before := join(s.cidrs)
	if len(ranges) == 0 {
		delete(s.cidrs, name)
	} else {
		s.cidrs[name] = ranges
	}
	s.moved = s.moved || !slices.Equal(before, join(s.cidrs))
}

// join leaves out ranges that lie in others. Two prefixes can't overlap otherwise.
func join(cidrs map[types.NamespacedName][]netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, ranges := range cidrs {
		for _, p := range ranges {
			all = append(all, p.Masked())
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare) // what contains another comes before it
	var out []netip.Prefix
	for _, p := range all {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// whereServed lists ServiceCIDRs. Where they can't be had, all else goes on without.
// An API that doesn't know them won't learn it while it runs: the reflector waits in
// here, or it would ask and complain for ever. A right that is missing may come.
func (s *state) whereServed(list listFunc, log *slog.Logger) listFunc {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		objs, err := list(ctx, o)
		if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
			return objs, err
		}
		s.Lock()
		s.listed[listedCIDRs] = true
		s.wake()
		s.Unlock()
		if apierrors.IsForbidden(err) {
			return nil, fmt.Errorf("list ServiceCIDRs, without which only the ranges of --service-cidr are known: %w", err)
		}
		log.InfoContext(ctx, "This API has no ServiceCIDRs; cluster IPs are in the ranges of --service-cidr")
		<-ctx.Done()
		return nil, ctx.Err()
	}
}
