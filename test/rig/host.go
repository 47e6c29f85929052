package rig

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// T is what the rig needs of who uses it: a test or a benchmark, or a program that
// stands in for one. Fatalf and Skip don't return.
type T interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
}

// Need skips a test that can't make namespaces here.
func Need(t T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
}

// Host is a network namespace.
type Host struct {
	Name string
	// Links changes addresses, links and routes of the host.
	Links *netlink.Handle
	ns    netns.NsHandle
	// ports counts the ports that clients used, see ask.
	ports atomic.Uint32
}

// NewHost makes a host with nothing but a loopback link.
func NewHost(t T, name string) *Host {
	t.Helper()
	Need(t)
	h := &Host{Name: name, ns: -1}
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		h.ns, err = netns.Get()
		return err
	})
	if err == nil {
		h.Links, err = netlink.NewHandleAt(h.ns)
	}
	if err != nil {
		t.Fatalf("host %s: %v", name, err)
	}
	t.Cleanup(func() {
		h.Links.Close()
		if err := h.ns.Close(); err != nil {
			t.Errorf("host %s: close namespace: %v", name, err)
		}
	})
	h.must(t, "bring up lo", h.up("lo"))
	// Addresses are usable at once: a test hasn't got duplicates, and the kernel
	// would hold the first packets back for up to two seconds.
	for _, s := range []string{"accept_dad", "dad_transmits"} {
		h.must(t, s, h.Sysctl("net/ipv6/conf/default/"+s, "0"))
	}
	// Errors come at once: the limits would hold them back for up to a second.
	for _, s := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		h.must(t, s, h.Sysctl(s, "0"))
	}
	// Tests must not lean on bridge netfilter, which many hosts don't have.
	for _, s := range []string{"iptables", "ip6tables", "arptables"} {
		if err := h.Sysctl("net/bridge/bridge-nf-call-"+s, "0"); err != nil && !os.IsNotExist(err) {
			t.Fatalf("host %s: %v", name, err)
		}
	}
	return h
}

// Path is where other programs find the host's namespace while this one lives, for
// nsenter --net.
func (h *Host) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.ns)) }

// onThread runs f on a thread of its own that ends with it, so that no namespace
// leaks into other goroutines.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		done <- f()
	}()
	return <-done
}

// Do runs f in the host. Sockets that f opens and programs that it starts belong
// to the host for good; goroutines that it starts do not.
func (h *Host) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(h.ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter host %s: %w", h.Name, err)
		}
		return f()
	})
}

// Run runs a program in the host and gives what it printed.
func (h *Host) Run(name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := h.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		return cmd.Run()
	})
	if err != nil {
		return stdout.String(), fmt.Errorf("%s: %s %s: %w: %s", h.Name, name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// Sysctl sets a value below /proc/sys, for a key like "net/ipv4/ip_forward".
func (h *Host) Sysctl(key, value string) error {
	return h.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) })
}

// Statistic gives one counter of a file like /proc/net/netstat, where a line of names
// stands before the line of numbers, both after the group's name.
func (h *Host) Statistic(file, group, name string) (int, error) {
	var raw []byte
	err := h.Do(func() (err error) {
		// Not /proc/net: that is the main thread's.
		raw, err = os.ReadFile(strings.Replace(file, "/proc/net/", "/proc/thread-self/net/", 1))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("host %s: %w", h.Name, err)
	}
	var names []string
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] != group+":":
		case names == nil:
			names = words
		default:
			if i := slices.Index(names, name); i > 0 && i < len(words) {
				return strconv.Atoi(words[i])
			}
		}
	}
	return 0, fmt.Errorf("host %s: %s has no %s %s", h.Name, file, group, name)
}

// Sum adds up one of the kernel's numbers over hosts.
func Sum(t T, file, group, name string, hosts ...*Host) (sum int) {
	t.Helper()
	for _, h := range hosts {
		n, err := h.Statistic(file, group, name)
		h.must(t, "read "+name, err)
		sum += n
	}
	return sum
}

func (h *Host) up(link string) error {
	l, err := h.Links.LinkByName(link)
	if err != nil {
		return err
	}
	return h.Links.LinkSetUp(l)
}

func (h *Host) must(t T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("host %s: %s: %v", h.Name, what, err)
	}
}

// Forward makes the host a router.
func (h *Host) Forward() error {
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := h.Sysctl(key, "1"); err != nil {
			return fmt.Errorf("host %s: forward: %w", h.Name, err)
		}
	}
	return nil
}

// AddAddr gives a link an address that can be used at once (no duplicate
// address detection).
func (h *Host) AddAddr(link string, p netip.Prefix) error {
	l, err := h.Links.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	a := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}
	if p.Addr().Is4() {
		a.Flags = 0
	}
	if err := h.Links.AddrAdd(l, a); err != nil {
		return fmt.Errorf("add %s to %s: %w", p, link, err)
	}
	return nil
}

// DelAddr takes an address from a link.
func (h *Host) DelAddr(link string, p netip.Prefix) error {
	l, err := h.Links.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	return h.Links.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
}

// Route is a route of a host. Via and Src may be invalid.
type Route struct {
	To       netip.Prefix
	Link     string
	Via, Src netip.Addr
	OnLink   bool // Via is reached by Link without a route to it
}

// AddRoute adds a route.
func (h *Host) AddRoute(r Route) error {
	l, err := h.Links.LinkByName(r.Link)
	if err != nil {
		return fmt.Errorf("link %s: %w", r.Link, err)
	}
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.To)}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	}
	if r.Src.IsValid() {
		route.Src = r.Src.AsSlice()
	}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	if err := h.Links.RouteAdd(route); err != nil {
		return fmt.Errorf("add route %+v: %w", r, err)
	}
	return nil
}
