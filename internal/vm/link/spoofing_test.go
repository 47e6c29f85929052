package link

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/sysctl"
)

// VM-04: a guest can't use another's address, the gateway's or the node's, however
// loose the host's own rp_filter is; nor be its router.
func TestSpoofing(t *testing.T) {
	m := node(t)
	listenOnNode(t)
	if err := sysctl.Set("net/ipv4/conf/all/rp_filter", "2"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sysctl.Set("net/ipv4/conf/all/rp_filter", "0") })
	a, b := boot(t, m, numbered(21)), boot(t, m, numbered(22))
	boot(t, m, numbered(23)) // a route that a loose rp_filter is content with
	a.configure(t)
	b.configure(t)
	got := make(chan string, 16)
	var pc net.PacketConn
	b.Do(t, func() (err error) {
		pc, err = net.ListenPacket("udp", "[::]:9000")
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			n, _, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			got <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	for _, c := range []struct {
		src, dst string
		passes   bool
	}{
		{"10.245.0.23", "10.245.0.22", false}, // a third one's
		{"10.245.0.22", "10.245.0.22", false}, // the other's own
		{"10.245.0.99", "10.245.0.22", false}, // nobody's
		{"10.244.3.1", "10.245.0.22", false},  // the node's
		{"192.0.2.7", "10.245.0.22", false},   // somebody's outside
		{"10.245.0.21", "10.245.0.22", true},
		{"fd00:10:245::23", "fd00:10:245::22", false},
		{"fd00:10:245::99", "fd00:10:245::22", false},
		{"fd00:10:244:3::1", "fd00:10:245::22", false},
		{"2001:db8::7", "fd00:10:245::22", false},
		{"fd00:10:245::21", "fd00:10:245::22", true},
	} {
		a.send(t, c.src, c.dst, "from "+c.src)
		if c.passes {
			// What was sent before and got through would be here first.
			select {
			case s := <-got:
				if s != "from "+c.src {
					t.Errorf("the other guest got a packet %s", s)
				}
			case <-time.After(patience):
				t.Errorf("no packet from %s", c.src)
			}
		}
	}
	routesBefore := kernel(t)
	a.frame(t, advertisementOf(t, a.guest))
	a.send(t, "10.245.0.21", "10.245.0.22", "after the advertisement")
	<-got
	if kernel(t) != routesBefore {
		t.Error("the node believed a guest's router advertisement")
	}
}

// send puts a UDP packet with any source on the guest's wire, past its own kernel.
func (vm *machine) send(t *testing.T, src, dst, payload string) {
	t.Helper()
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	var f []byte
	if s.Is4() {
		f = udp4(GatewayMAC, d, []byte(payload))
		copy(f[26:30], s.AsSlice())
		f[24], f[25] = 0, 0
		check := ^fold(sum(0, f[14:34]))
		f[24], f[25] = byte(check>>8), byte(check)
		copy(f[34:], udpTo(s, d, 9000, 9000, []byte(payload)))
	} else {
		f = ipv6Frame(GatewayMAC, d, unix.IPPROTO_UDP, udpTo(s, d, 9000, 9000, []byte(payload)))
		copy(f[22:38], s.AsSlice())
	}
	vm.frame(t, f)
}

func (vm *machine) frame(t *testing.T, f []byte) {
	t.Helper()
	copy(f[6:12], vm.guest.MAC)
	const virtioNetHeader = 10
	if _, err := vm.tap.Write(append(make([]byte, virtioNetHeader), f...)); err != nil {
		t.Fatal(err)
	}
}

// advertisementOf makes a guest's own router advertisement, to all nodes.
func advertisementOf(t *testing.T, g Guest) []byte {
	r, err := newResponder(g, 1400)
	if err != nil {
		t.Fatal(err)
	}
	f := append([]byte(nil), r.advert...)
	copy(f[22:38], netip.MustParseAddr("fe80::1:1").AsSlice())
	return f
}
