package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"portico.dev/portico/internal/routes/sysctl"
)

// ensureForwarding lets packets through between guests and the host's other links,
// touching as little as the kernel allows. n.mu is held.
//
// IPv4 asks the incoming link only, so the switch of each uplink is enough and
// ip_forward stays 0. IPv6 asks all.forwarding; only since Linux 6.17 is there
// force_forwarding for one link (Documentation/networking/ip-sysctl.rst). Before,
// all.forwarding must be thrown, which the kernel copies to every link.
func (n *Network) ensureForwarding() error {
	links, err := foreignLinks()
	if err != nil {
		return err
	}
	if err := n.forward4(links); err != nil {
		return fmt.Errorf("switch on IPv4 forwarding: %w", err)
	}
	if !n.ipv6 {
		return nil
	}
	if err := n.keepDefaultRoutes(links); err != nil {
		return fmt.Errorf("keep accepting router advertisements: %w", err)
	}
	if err := n.forward6(links); err != nil {
		return fmt.Errorf("switch on IPv6 forwarding: %w", err)
	}
	return nil
}

func (n *Network) forward4(links []foreignLink) error {
	global, err := sysctl.Get("net/ipv4/ip_forward")
	if err != nil {
		return err
	}
	if global == "1" {
		// Somebody else's switch, and with it every link's: nothing to put back.
		return n.journal.Forget(func(c sysctl.Change) bool { return isForwarding(c.Key, "net/ipv4/conf/") })
	}
	for _, l := range links {
		if l.uplink4 {
			if err := n.set(forwarding4(l.name), "1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepDefaultRoutes sets accept_ra to 2 where the kernel takes routes from router
// advertisements. With 1 a link that forwards takes none, and, worse, switching on
// forwarding for any one link drops the default routes that all links have learnt
// (addrconf_fixup_forwarding and rt6_purge_dflt_routers in net/ipv6). Where a link
// forwards already, the host is a router by somebody's will and 1 means no.
func (n *Network) keepDefaultRoutes(links []foreignLink) error {
	names := []string{"default"}
	for _, l := range links {
		names = append(names, l.name)
	}
	for _, name := range names {
		accept, err := sysctl.Get("net/ipv6/conf/" + name + "/accept_ra")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		forwarding, err := sysctl.Get(forwarding6(name))
		if err != nil {
			return err
		}
		if accept == "1" && forwarding == "0" {
			if err := n.set("net/ipv6/conf/"+name+"/accept_ra", "2"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Network) forward6(links []foreignLink) error {
	all := forwarding6("all")
	global, err := sysctl.Get(all)
	if err != nil || global == "1" {
		return err
	}
	if sysctl.Exists("net/ipv6/conf/all/force_forwarding") && !n.cfg.forceGlobal {
		for _, l := range links {
			if l.uplink6 {
				if err := n.set(forceForwarding(l.name), "1"); err != nil {
					return err
				}
			}
		}
		return nil
	}
	// The kernel copies the switch to every link: record what each has now.
	var changes []sysctl.Change
	names, err := sysctl.Interfaces("net/ipv6/conf")
	if err != nil {
		return err
	}
	for _, name := range append(names, "default") {
		if ours(name) {
			continue
		}
		before, err := sysctl.Get(forwarding6(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			changes = append(changes, sysctl.Change{Key: forwarding6(name), Before: before, After: "1"})
		}
	}
	if err := n.journal.Note(changes...); err != nil {
		return err
	}
	return n.journal.Set(all, "1")
}

// set records and sets; a link that went away meanwhile is no error.
func (n *Network) set(key, value string) error {
	if err := n.journal.Set(key, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// openedLocked lists the links that forward only because of us. n.mu is held.
func (n *Network) openedLocked() guarded {
	var g guarded
	links, err := foreignLinks()
	if err != nil {
		return n.written.guarded // the next event looks again
	}
	global := n.journal.Has(forwarding6("all"))
	for _, l := range links {
		if n.journal.Has(forwarding4(l.name)) {
			g.ipv4 = append(g.ipv4, l.name)
		}
		if n.ipv6 && (global || n.journal.Has(forceForwarding(l.name))) {
			g.ipv6 = append(g.ipv6, l.name)
		}
	}
	return g
}

// guarded names links through which nothing is to pass that wouldn't have passed
// without us, for each family, sorted.
type guarded struct{ ipv4, ipv6 []string }

func (g guarded) equal(o guarded) bool {
	return slices.Equal(g.ipv4, o.ipv4) && slices.Equal(g.ipv6, o.ipv6)
}

// foreignLink is a link of others. An uplink has an address by which it can be
// reached from elsewhere: packets for Services and answers to guests come in there.
type foreignLink struct {
	name             string
	uplink4, uplink6 bool
}

func foreignLinks() ([]foreignLink, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this host's links: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	v4, v6 := map[int]bool{}, map[int]bool{}
	for _, a := range addrs {
		if a.IP.To4() != nil {
			v4[a.LinkIndex] = true
		} else if !a.IP.IsLinkLocalUnicast() {
			v6[a.LinkIndex] = true
		}
	}
	var out []foreignLink
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && !ours(a.Name) {
			out = append(out, foreignLink{name: a.Name, uplink4: v4[a.Index], uplink6: v6[a.Index]})
		}
	}
	slices.SortFunc(out, func(a, b foreignLink) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return out, nil
}

// IPv6Enabled tells whether this host has IPv6 and hasn't switched it off. Without
// it, everything here is IPv4 only.
func IPv6Enabled() bool {
	off, err := sysctl.Get("net/ipv6/conf/all/disable_ipv6")
	return err == nil && off == "0"
}

func forwarding4(link string) string     { return "net/ipv4/conf/" + link + "/forwarding" }
func forwarding6(link string) string     { return "net/ipv6/conf/" + link + "/forwarding" }
func forceForwarding(link string) string { return "net/ipv6/conf/" + link + "/force_forwarding" }
