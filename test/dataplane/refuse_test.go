package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/test/rig"
)

// soon is what "at once" allows on a busy machine; a client that gets no answer
// sends its SYN again after one second only.
const soon = 700 * time.Millisecond

// refused reports whether an exchange failed at once with an error from the
// network, and not by time. Where a machine that is busy was late it tries again.
func refused(h *rig.Host, network string, to netip.AddrPort) (ok bool, err error) {
	for range 3 {
		start := time.Now()
		var c net.Conn
		c, err = h.Dial(network, netip.AddrPort{}, to, 2*soon)
		if err == nil {
			_, err = rig.Exchange(c, 2*soon)
			c.Close()
		}
		// A packet that netfilter rejects in the output hook also fails in the
		// client's own system call.
		ok = errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPERM)
		if took := time.Since(start); took < soon {
			return ok, err
		}
	}
	return false, err
}

// silent reports whether an exchange got no answer at all.
func silent(h *rig.Host, network string, to netip.AddrPort) (bool, error) {
	c, err := h.Dial(network, netip.AddrPort{}, to, 100*time.Millisecond)
	if err == nil {
		_, err = rig.Exchange(c, 100*time.Millisecond)
		c.Close()
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded), err
}

// DP-09: no endpoint, an unknown port of a known cluster IP: refused at once. An
// address that no Service has: dropped.
func TestRefuse(t *testing.T) {
	w := newWorld(t)
	empty := service{name: "empty", ip: pair("10.96.0.30", "fd00:10:96::30"), port: 80, nodePort: 30090}
	dead := service{name: "dead", ip: pair("10.96.0.31", "fd00:10:96::31"), port: 80, nodePort: 30091}
	w.replace(empty.view(), dead.with(onNode(guestA, 8080).in(notReady)).view())
	w.verify()
	origins := map[string]*rig.Host{"guest": w.b, "node": w.node.Host, "outside": w.outside}
	each(t, func(t *testing.T, network string, v6 bool) {
		for name, h := range origins {
			for what, to := range map[string]netip.AddrPort{
				"no endpoint": empty.ip.port(v6, 80), "no ready endpoint": dead.ip.port(v6, 80), "unknown port": empty.ip.port(v6, 81),
				"node port without endpoint": nodeAddr.port(v6, 30090), "node port without ready endpoint": nodeAddr.port(v6, 30091),
			} {
				if ok, err := refused(h, network, to); !ok {
					t.Errorf("%s from %s: want a refusal at once, got %v", what, name, err)
				}
			}
		}
		// The node's own packets to a dropped address fail in its system call.
		for _, h := range []*rig.Host{w.b, w.outside} {
			unallocated := pair("10.96.7.7", "fd00:10:96::7777")
			if ok, err := silent(h, network, unallocated.port(v6, 80)); !ok {
				t.Errorf("unallocated address from %s: want silence, got %v", h.Name, err)
			}
		}
	})
}

// DP-11: a terminating endpoint gets no new connections while a ready one
// exists, keeps its established ones, and serves when nothing else does.
func TestTerminating(t *testing.T) {
	w := newWorld(t)
	old, young := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, old)
	w.serve(w.b, young)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	w.replace(web.with(old).view())
	var open []net.Conn
	for _, v6 := range []bool{false, true} {
		c, err := w.outside.Dial("tcp", netip.AddrPort{}, nodeAddr.port(v6, 30080), rig.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := rig.Exchange(c, rig.Patience); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	only := func(want endpoint) {
		t.Helper()
		each(t, func(t *testing.T, network string, v6 bool) {
			count, err := w.outside.AskTimes(network, nodeAddr.port(v6, 30080), 20)
			if err != nil {
				t.Fatal(err)
			}
			if count[want.addr(v6)] != 20 {
				t.Errorf("answers by %v, want all by %s", count, want.addr(v6))
			}
		})
		for _, c := range open {
			if err := rig.Echo(c, rig.Patience); err != nil {
				t.Errorf("the established connection broke: %v", err)
			}
		}
	}
	w.update(web.with(old.in(terminating), young).view())
	only(young)
	w.update(web.with(old.in(terminating), young.in(notReady)).view())
	only(old)
	open = nil // these end now: TestGoneBackend
	w.update(web.with(young).view())
	only(young)
}
