package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/routes/sysctl"
)

// patience is how long a state or an answer may take on a busy machine.
const patience = 20 * time.Second

// retries is how often a guest's DHCP client asks, each time for twice as long: 15 s in all.
const retries = 5

// node makes the node's network and a manager on it; both go, with proof that
// nothing stays, at the end of the test.
func node(t *testing.T) *Manager {
	t.Helper()
	nstest.Need(t)
	prefix := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	state := t.TempDir()
	n, err := routes.Setup(t.Context(), routes.Config{
		Services: prefix("10.96.0.0/12", "fd00:10:96::/112"),
		Cluster:  prefix("10.244.0.0/16", "fd00:10:244::/56"),
		Guests:   prefix("10.245.0.0/16", "fd00:10:245::/64"),
		PodCIDRs: prefix("10.244.3.0/24", "fd00:10:244:3::/64"),
		StateDir: state, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(Config{Source4: n.Own(false), Source6: n.Own(true), MTU: 1450, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if _, err := routes.Teardown(state); err != nil {
			t.Error(err)
		}
	})
	return m
}

func numbered(n int) Guest {
	g := testGuest
	g.ID = fmt.Sprintf("8d0b6c0e-2f7e-4a52-9a3c-0f6d9b9b8a%02d", n)
	g.MAC = net.HardwareAddr{0x02, 0x70, 0x6f, 0, 0, byte(n)}
	g.Addrs = []netip.Addr{
		netip.AddrFrom4([4]byte{10, 245, 0, byte(n)}),
		netip.MustParseAddr(fmt.Sprintf("fd00:10:245::%d", n)),
	}
	return g
}

// machine is a guest: another namespace whose tap g<n> is wired to the tap that
// Attach opened, frame by frame with their virtio-net headers, as QEMU does it.
type machine struct {
	*nstest.Host
	guest Guest
	nic   string
	tap   *os.File // what QEMU would hold
	off   func()
}

func boot(t *testing.T, m *Manager, g Guest) *machine {
	t.Helper()
	tap, err := m.Attach(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	// Go caches interface names over namespaces: each guest's has its own.
	vm := &machine{Host: nstest.New(t), guest: g, nic: fmt.Sprintf("g%d", g.MAC[5]), tap: tap}
	var nic *os.File
	vm.Do(t, func() error {
		if nic, err = openTap(vm.nic); err != nil {
			return err
		}
		l, err := netlink.LinkByName(vm.nic)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(l, g.MAC); err != nil {
			return err
		}
		if err := sysctl.Set("net/ipv6/conf/"+vm.nic+"/accept_dad", "0"); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	done := make(chan struct{}, 2)
	copyFrames := func(to, from *os.File) {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 65536)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			// EIO: the other side's link is down.
			if _, err := to.Write(b[:n]); err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EINVAL) {
				return
			}
		}
	}
	go copyFrames(nic, tap)
	go copyFrames(tap, nic)
	stopped := false
	vm.off = func() {
		if !stopped {
			stopped = true
			_, _ = tap.Close(), nic.Close()
			<-done
			<-done
		}
	}
	t.Cleanup(vm.off)
	return vm
}

// configure gets the addresses as a guest does: the kernel takes the router's
// advertisement, DHCP clients do the rest.
func (vm *machine) configure(t *testing.T) {
	t.Helper()
	nstest.Eventually(t, patience, "a link-local address", func() bool {
		return strings.Contains(vm.run(t, "ip", "-6", "addr", "show", "dev", vm.nic, "scope", "link", "-tentative"), "fe80::")
	})
	vm.Do(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c4, err := nclient4.New(vm.nic, nclient4.WithTimeout(500*time.Millisecond), nclient4.WithRetry(retries))
		if err != nil {
			return err
		}
		defer func() { _ = c4.Close() }()
		lease, err := c4.Request(ctx)
		if err != nil {
			return fmt.Errorf("DHCPv4: %w", err)
		}
		if got := lease.ACK.YourIPAddr.String(); got != vm.guest.Addrs[0].String() {
			return fmt.Errorf("DHCPv4 gave %s", got)
		}
		c6, err := nclient6.New(vm.nic, nclient6.WithTimeout(500*time.Millisecond), nclient6.WithRetry(retries))
		if err != nil {
			return err
		}
		defer func() { _ = c6.Close() }()
		adv, err := c6.Solicit(ctx)
		if err != nil {
			return fmt.Errorf("DHCPv6 solicit: %w", err)
		}
		reply, err := c6.Request(ctx, adv)
		if err != nil {
			return fmt.Errorf("DHCPv6 request: %w", err)
		}
		a6 := reply.Options.OneIANA().Options.OneAddress()
		if a6 == nil || a6.IPv6Addr.String() != vm.guest.Addrs[1].String() {
			return fmt.Errorf("DHCPv6 gave %s", reply.Summary())
		}
		if err := nstest.Up(vm.nic, lease.ACK.YourIPAddr.String()+"/32", a6.IPv6Addr.String()+"/128"); err != nil {
			return err
		}
		return nstest.Route("0.0.0.0/0", lease.ACK.Router()[0].String(), vm.nic)
	})
	nstest.Eventually(t, patience, "a default route by router advertisement", func() bool {
		return strings.Contains(vm.run(t, "ip", "-6", "route", "show", "default"), "via fe80::1")
	})
}

func (vm *machine) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out []byte
	vm.Do(t, func() error {
		var err error
		out, err = exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return err
	})
	return string(out)
}

func (vm *machine) ask(t *testing.T, addr string, patience time.Duration) (answer string, err error) {
	t.Helper()
	vm.Do(t, func() error {
		answer, err = nstest.Ask(addr, 8080, patience)
		return nil
	})
	return answer, err
}

func listenOnNode(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	nstest.ServeWhoAmI(t, l)
}

// reaches fails unless the guest reaches each address and is seen as itself.
func (vm *machine) reaches(t *testing.T, addrs ...string) {
	t.Helper()
	for _, to := range addrs {
		want := vm.guest.Addrs[0].String()
		if strings.Contains(to, ":") {
			want = vm.guest.Addrs[1].String()
		}
		if got, err := vm.ask(t, to, patience); err != nil || got != want {
			t.Errorf("%s to %s: seen as %q, %v; want %s", vm.guest.Addrs[0], to, got, err, want)
		}
	}
}

var nodeAddrs = []string{"10.244.3.1", "fd00:10:244:3::1", "169.254.1.1"}
