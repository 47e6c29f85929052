package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes"
)

const (
	// routeTable has the addresses of Services as addresses of this host. A rule leads
	// marked packets alone to it: an ARP request or a neighbour solicitation, which never
	// has a mark, doesn't find them, nor does a program that asks for a source address.
	routeTable = 28712
	// rulePriority is before the main table's (32766) and those that VPNs use (5000 and on).
	rulePriority = 112
	// routeProtocol marks our routes and rules, as it does all of this node's: whoever looks
	// for routes of others that overlap ranges of ours leaves these out.
	routeProtocol = routes.RouteProtocol
	// loopback is LOOPBACK_IFINDEX, the same in each network namespace.
	loopback = 1
)

// router keeps the routing table.
type router struct {
	links *netlink.Handle
	mark  uint32
}

func openRouter(mark uint32) (*router, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &router{h, mark}, nil
}

func (r *router) close() { r.links.Close() }

// rules are those that lead to the table: marked packets of others, and packets of our own
// to aliases, which no other table knows.
func (r *router) rules() (out []*netlink.Rule) {
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		marked := netlink.NewRule()
		marked.Family, marked.Table, marked.Priority, marked.Protocol = family, routeTable, rulePriority, uint8(routeProtocol)
		marked.Mark, marked.Mask = r.mark, &r.mark
		own := netlink.NewRule()
		own.Family, own.Table, own.Priority, own.Protocol = family, routeTable, rulePriority, uint8(routeProtocol)
		own.IifName, own.Dst = "lo", ipNet(aliases[i])
		out = append(out, marked, own)
	}
	return out
}

func sameRule(a, b *netlink.Rule) bool {
	text := func(n *net.IPNet) string {
		if n == nil {
			return ""
		}
		return n.String()
	}
	return a.Table == b.Table && a.Priority == b.Priority && a.Mark == b.Mark && a.IifName == b.IifName && text(a.Dst) == text(b.Dst)
}

// held gives our rules and the destinations of our routes.
func (r *router) held() (rules []netlink.Rule, local map[netip.Prefix]netlink.Route, err error) {
	local = map[netip.Prefix]netlink.Route{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := r.links.RuleList(family)
		if err != nil {
			return nil, nil, fmt.Errorf("list routing rules: %w", err)
		}
		for _, rule := range all {
			if rule.Table == routeTable {
				rule.Family = family
				rules = append(rules, rule)
			}
		}
		found, err := r.links.RouteListFiltered(family, &netlink.Route{Table: routeTable}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, nil, fmt.Errorf("list the routing table %d: %w", routeTable, err)
		}
		for _, route := range found {
			if route.Dst == nil {
				continue
			}
			a, _ := netip.AddrFromSlice(route.Dst.IP)
			bits, _ := route.Dst.Mask.Size()
			if family == unix.AF_INET {
				a = a.Unmap()
			}
			local[netip.PrefixFrom(a, bits)] = route
		}
	}
	return rules, local, nil
}

// routesOf gives the destinations of the table for ranges and single addresses.
func routesOf(services []netip.Prefix, single []netip.Addr) []netip.Prefix {
	out := slices.Concat(services, aliases[:])
	for _, a := range single {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// differences says in words what sync would do.
func (r *router) differences(want []netip.Prefix) (words []string, err error) {
	rules, local, err := r.held()
	if err != nil {
		return nil, err
	}
	for _, w := range r.rules() {
		if !slices.ContainsFunc(rules, func(h netlink.Rule) bool { return h.Family == w.Family && sameRule(&h, w) }) {
			words = append(words, fmt.Sprintf("routing rule missing: %s", w))
		}
	}
	for _, p := range want {
		if _, ok := local[p]; !ok {
			words = append(words, fmt.Sprintf("routing table %d: missing: local %s", routeTable, p))
		}
		delete(local, p)
	}
	for p := range local {
		words = append(words, fmt.Sprintf("routing table %d: superfluous: %s", routeTable, p))
	}
	return words, nil
}

// add makes rules and routes that are missing.
func (r *router) add(want []netip.Prefix) error {
	rules, local, err := r.held()
	if err != nil {
		return err
	}
	for _, w := range r.rules() {
		if slices.ContainsFunc(rules, func(h netlink.Rule) bool { return h.Family == w.Family && sameRule(&h, w) }) {
			continue
		}
		if err := r.links.RuleAdd(w); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the routing rule %s: %w", w, err)
		}
	}
	for _, p := range want {
		if _, ok := local[p]; !ok {
			if err := r.put(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune deletes routes that are nobody's.
func (r *router) prune(want []netip.Prefix) error {
	_, local, err := r.held()
	if err != nil {
		return err
	}
	for _, p := range want {
		delete(local, p)
	}
	for p := range local {
		if err := r.del(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *router) route(p netip.Prefix) *netlink.Route {
	out := &netlink.Route{Dst: ipNet(p), Table: routeTable, Type: unix.RTN_LOCAL, LinkIndex: loopback, Protocol: routeProtocol}
	if p.Addr().Is4() {
		out.Scope = netlink.SCOPE_HOST
	}
	return out
}

// raise brings the loopback link up, without which a new network namespace has no routes.
func (r *router) raise() error {
	lo, err := r.links.LinkByIndex(loopback)
	if err == nil {
		err = r.links.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring up the loopback link: %w", err)
	}
	return nil
}

func (r *router) put(p netip.Prefix) error {
	if err := r.links.RouteReplace(r.route(p)); err != nil {
		return fmt.Errorf("add the route local %s to table %d: %w", p, routeTable, err)
	}
	return nil
}

func (r *router) del(p netip.Prefix) error {
	if err := r.links.RouteDel(r.route(p)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete the route local %s from table %d: %w", p, routeTable, err)
	}
	return nil
}

// remove takes our rules and routes away.
func (r *router) remove() error {
	rules, _, err := r.held()
	if err != nil {
		return err
	}
	for i := range rules {
		if err := r.links.RuleDel(&rules[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete the routing rule %s: %w", rules[i], err)
		}
	}
	return r.prune(nil)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
