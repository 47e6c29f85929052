package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace. It has no name and is held open by a file alone.
type Host struct {
	ns    netns.NsHandle
	Links *netlink.Handle
}

// onThread runs f on a thread of its own that ends with it, so that no namespace and no
// processor leaks into other goroutines.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		done <- f()
	}()
	return <-done
}

// NewHost makes one with nothing but a loopback link. Hooks on bridges and filters of
// reverse paths are off: neither belongs to any contender.
func NewHost(sysctls map[string]string) (_ *Host, err error) {
	h := &Host{ns: -1}
	err = onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		h.ns, err = netns.Get()
		return err
	})
	if err != nil {
		return nil, err
	}
	if h.Links, err = netlink.NewHandleAt(h.ns); err != nil {
		return nil, errors.Join(fmt.Errorf("open a network namespace: %w", err), h.ns.Close())
	}
	if err := h.prepare(sysctls); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) prepare(sysctls map[string]string) error {
	for _, s := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
		// Absent where the kernel has no bridge netfilter: then it is off.
		if err := h.sysctl(s, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, s := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv4/icmp_ratelimit"} {
		if err := h.sysctl(s, "0"); err != nil {
			return err
		}
	}
	for s, value := range sysctls {
		if err := h.sysctl(s, value); err != nil {
			return err
		}
	}
	return Up(h.Links, "lo")
}

func (h *Host) Close() {
	h.Links.Close()
	_ = h.ns.Close() // the kernel removes the namespace with the last that is in it
}

// Do runs f in the namespace. Sockets that it opens belong there for good; goroutines
// that it starts don't.
func (h *Host) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(h.ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Enter begins a command line that runs in the namespace. Not `ip netns exec`, which
// mounts another /sys.
func (h *Host) Enter() []string {
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(h.ns)), "--"}
}

func (h *Host) sysctl(key, value string) error {
	return h.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644) })
}

// Up brings a link up.
func Up(links *netlink.Handle, name string) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the link %s: %w", name, err)
	}
	if err := links.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// Wire connects two namespaces by a veth pair, each end with its address; a switch's port
// has none.
func Wire(a *netlink.Handle, aName string, aAddr netip.Prefix, b *Host, bName string, bAddr netip.Prefix) error {
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: bName, PeerNamespace: netlink.NsFd(b.ns)}
	v.Name = aName
	if err := a.LinkAdd(v); err != nil {
		return fmt.Errorf("wire %s to %s: %w", aName, bName, err)
	}
	for _, end := range []struct {
		Links *netlink.Handle
		name  string
		addr  netip.Prefix
	}{{a, aName, aAddr}, {b.Links, bName, bAddr}} {
		if end.addr.IsValid() {
			if err := Address(end.Links, end.name, end.addr); err != nil {
				return err
			}
		}
		if err := Up(end.Links, end.name); err != nil {
			return err
		}
	}
	return nil
}

// Move gives a link of ours to a namespace, under another name and with an address, and
// brings it up.
func Move(from *netlink.Handle, name string, to *Host, as string, addr netip.Prefix) error {
	l, err := from.LinkByName(name)
	if err == nil {
		err = from.LinkSetNsFd(l, int(to.ns))
	}
	if err == nil {
		l, err = to.Links.LinkByName(name)
	}
	if err == nil {
		err = to.Links.LinkSetName(l, as)
	}
	if err != nil {
		return fmt.Errorf("move %s: %w", name, err)
	}
	if err := Address(to.Links, as, addr); err != nil {
		return err
	}
	return Up(to.Links, as)
}

// Address gives a link an address.
func Address(links *netlink.Handle, name string, p netip.Prefix) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the link %s: %w", name, err)
	}
	if err := links.AddrAdd(l, &netlink.Addr{IPNet: IPNet(p)}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, p, err)
	}
	return nil
}

// porticoRoutes marks routes of other nodes and guests, which the agent takes for its
// own: it refuses to start where others' lie in its ranges (internal/routes).
const porticoRoutes = 112

// Route leads a prefix to a neighbour on a link; without one, to the link. The prefix
// without bits is the default route.
func Route(links *netlink.Handle, to netip.Prefix, name string, via netip.Addr) error {
	l, err := links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the link %s: %w", name, err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: IPNet(to), Protocol: porticoRoutes, Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Scope, r.Flags = via.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	if err := links.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s to %s: %w", to, name, err)
	}
	return nil
}

// IPNet is a prefix as netlink wants it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
