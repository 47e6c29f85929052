// Package nstest gives tests network namespaces as hosts: the test's own process
// is the node, in a namespace of its own, and others are made beside it. The
// machine's own network is never touched.
package nstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const inside = "PORTICO_TEST_NAMESPACE"

// Main runs the tests in a new network namespace, by running the test binary
// once more: threads that Go makes later are in it too, unlike with setns.
// Without root the tests run where they are, and those that call Need skip.
func Main(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(inside) != "" {
		if err := upLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	// The death signal is bound to the thread that starts the child.
	runtime.LockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

func upLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Need skips the test where Main couldn't make a namespace.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root and network namespaces")
	}
}

// Host is another namespace.
type Host struct{ ns netns.NsHandle }

// New makes a host with its loopback up, gone at the end of the test.
func New(t testing.TB) *Host {
	t.Helper()
	h := &Host{}
	err := onThread(func() error {
		var err error
		if h.ns, err = netns.New(); err != nil {
			return err
		}
		return upLoopback()
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = h.ns.Close() })
	return h
}

// Do runs f inside the host. Sockets made there stay there; f must start no
// goroutine that makes any.
func (h *Host) Do(t testing.TB, f func() error) {
	t.Helper()
	err := onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		result <- f()
	}()
	return <-result
}

// Connect lays a cable from the node's link (made here) to the host's, both up,
// and gives each its addresses. The node's end goes at the end of the test.
func (h *Host) Connect(t testing.TB, nodeLink string, nodeAddrs []string, hostLink string, hostAddrs []string) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nodeLink}, PeerName: hostLink, PeerNamespace: netlink.NsFd(h.ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("lay a cable: %v", err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	if err := Up(nodeLink, nodeAddrs...); err != nil {
		t.Fatal(err)
	}
	h.Do(t, func() error { return Up(hostLink, hostAddrs...) })
}

// Up brings a link up and gives it addresses, without duplicate detection.
func Up(link string, addrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", link, err)
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = syscall.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("give %s the address %s: %w", link, s, err)
		}
	}
	return nil
}

// Route adds a route: to dst by a gateway (or none) and a link.
func Route(dst, via, link string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	p := netip.MustParsePrefix(dst)
	r := &netlink.Route{
		LinkIndex: l.Attrs().Index,
		Dst:       &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
	}
	if via != "" {
		r.Gw = netip.MustParseAddr(via).AsSlice()
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s via %q dev %s: %w", dst, via, link, err)
	}
	return nil
}

// WhoAmI answers each TCP connection to the host on port with the client's address.
func (h *Host) WhoAmI(t testing.TB, port int) {
	t.Helper()
	var l net.Listener
	h.Do(t, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	ServeWhoAmI(t, l)
}

// ServeWhoAmI answers each connection with the client's address until the test ends.
func ServeWhoAmI(t testing.TB, l net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			_, _ = c.Write([]byte(from.String()))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// Ask connects to a WhoAmI and returns what it says. It is for use inside Do.
func Ask(addr string, port int, patience time.Duration) (string, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.Dial("tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// Eventually waits until ok says so, or fails the test, and tells how long it took.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("after %v: not yet %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(start)
}
