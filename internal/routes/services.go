package routes

import (
	"fmt"
	"net/netip"
	"slices"
)

// SetServices replaces the ranges of cluster IPs by those that the API has now. They
// may be more than one of each family, without an address in common. It returns those
// that the node takes; the kernel has them soon after.
//
// A new range that overlaps something the host itself uses is left out, for a route to
// it would cut the host off from that; the log has the remedy. Ranges that were taken
// stay: what the host adds later was added with them in sight.
func (n *Network) SetServices(ranges []netip.Prefix) []netip.Prefix {
	n.mu.Lock()
	before := n.services
	n.mu.Unlock()
	taken, err := hostRoutes()
	if err != nil {
		n.log.Error("New ranges of cluster IPs aren't compared with this host's routes", "error", err)
	}
	var usable []netip.Prefix
	for _, p := range ranges {
		if !slices.Contains(before, p) {
			warnings, err := n.checkService(p, taken)
			if err != nil {
				n.log.Error("This node doesn't serve a range of cluster IPs; when the reason is gone, restart the agent", "range", p, "error", err)
				continue
			}
			for _, w := range warnings {
				n.log.Warn(w)
			}
		}
		usable = append(usable, p)
	}
	n.mu.Lock()
	n.services, n.told = usable, true
	n.mu.Unlock()
	if !slices.Equal(usable, before) {
		n.log.Info("The ranges of cluster IPs changed", "ranges", usable)
	}
	n.look()
	return usable
}

// UsableServices gives those of the API's ranges of cluster IPs that a node which
// starts now would take.
func UsableServices(cfg Config, ranges []netip.Prefix) ([]netip.Prefix, error) {
	taken, err := hostRoutes()
	if err != nil {
		return nil, err
	}
	n := &Network{cfg: cfg}
	return slices.DeleteFunc(slices.Clone(ranges), func(p netip.Prefix) bool {
		if slices.Contains(cfg.Services, p) {
			return false
		}
		_, err := n.checkService(p, taken)
		return err != nil
	}), nil
}

// checkService looks for what makes a range of the API unusable on this host.
func (n *Network) checkService(p netip.Prefix, taken []hostRoute) (warnings []string, err error) {
	for _, special := range specialRanges {
		if p.Overlaps(special.prefix) {
			return nil, fmt.Errorf("ServiceCIDR %s contains %s addresses (%s)", p, special.what, special.prefix)
		}
	}
	c := n.cfg
	c.Services = nil
	return checkOverlaps(append(c.ranges(), namedRange{"ServiceCIDR", p}), taken)
}
