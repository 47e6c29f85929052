package routes

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/ruleset"
	"portico.dev/portico/internal/routes/sysctl"
)

// Report says what Teardown found and did.
type Report struct {
	Removed  []string        // links, routes and tables, in words
	Restored []sysctl.Change // parameters that have their old values again
	Left     []string        // sentences: what was not put back, and why
}

// Teardown removes everything that Setup and the guests' links left in this
// network namespace, puts changed parameters back and looks again: an error means
// that something of ours is still there. No Network may be open, and no guest
// running, when it is called.
func Teardown(stateDir string) (Report, error) {
	var r Report
	if err := r.removeTables(); err != nil {
		return r, err
	}
	if err := r.removeLinks(); err != nil {
		return r, err
	}
	if err := r.removeRoutes(); err != nil {
		return r, err
	}
	if err := r.restore(stateDir); err != nil {
		return r, err
	}
	rest, err := Remains()
	if err != nil {
		return r, err
	}
	if len(rest) > 0 {
		return r, fmt.Errorf("still there after removal: %s", strings.Join(rest, ", "))
	}
	return r, nil
}

// Remains lists, in words, what of Portico's network is in the kernel now.
func Remains() ([]string, error) {
	var out []string
	links, err := ourLinks()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		out = append(out, "link "+l.Attrs().Name)
	}
	routes, err := ourRoutes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		out = append(out, "route "+r.Dst.String())
	}
	tables, err := ourTables()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		out = append(out, "nftables table inet "+t)
	}
	return out, nil
}

func (r *Report) removeTables() error {
	tables, err := ourTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := ruleset.Remove(t); err != nil {
			return err
		}
		r.Removed = append(r.Removed, "nftables table inet "+t)
	}
	return nil
}

func (r *Report) removeLinks() error {
	links, err := ourLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
		}
		r.Removed = append(r.Removed, "link "+l.Attrs().Name)
	}
	return nil
}

func (r *Report) removeRoutes() error {
	routes, err := ourRoutes() // those of removed links went with them
	if err != nil {
		return err
	}
	for _, route := range routes {
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route to %s: %w", route.Dst, err)
		}
		r.Removed = append(r.Removed, "route "+route.Dst.String())
	}
	return nil
}

func (r *Report) restore(stateDir string) error {
	journal, err := openJournal(stateDir)
	if err != nil {
		return err
	}
	if global, err := sysctl.Get("net/ipv4/ip_forward"); err == nil && global == "1" && !journal.Has("net/ipv4/ip_forward") {
		// Switched on by somebody since: the links' switches belong to that now.
		if err := journal.Forget(func(c sysctl.Change) bool { return isForwarding(c.Key, "net/ipv4/conf/") }); err != nil {
			return err
		}
	}
	done, err := journal.Restore()
	if err != nil {
		return err
	}
	r.Restored, r.Left = done.Restored, append(r.Left, done.Left...)
	return nil
}

func isForwarding(key, prefix string) bool {
	return strings.HasPrefix(key, prefix) && strings.HasSuffix(key, "/forwarding")
}

// ourLinks lists portico0, the tunnels and the guests' taps. A link of another kind that
// merely has such a name is somebody else's.
func ourLinks() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this host's links: %w", err)
	}
	var out []netlink.Link
	for _, l := range links {
		a := l.Attrs()
		bridge := a.Name == Bridge && l.Type() == "bridge"
		tap := strings.HasPrefix(a.Name, LinkPrefix) && l.Type() == "tuntap"
		tunnel := isTunnel(a.Name) && l.Type() == "vxlan"
		if bridge || tap || tunnel {
			out = append(out, l)
		}
	}
	return out, nil
}

func ourRoutes() ([]netlink.Route, error) {
	var out []netlink.Route
	for _, protocol := range []netlink.RouteProtocol{RouteProtocol, PeerProtocol} {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
			&netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list our routes: %w", err)
		}
		out = append(out, routes...)
	}
	return out, nil
}

func ourTables() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	var out []string
	for _, t := range tables {
		if t.Name == Table || t.Name == LinkTable || t.Name == PeerTable {
			out = append(out, t.Name)
		}
	}
	return out, nil
}
