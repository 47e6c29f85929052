package dataplane

import (
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"

	"portico.dev/portico/test/rig"
)

// begun is a connection whose first packet came before its Service.
type begun struct {
	from *rig.Host
	to   netip.AddrPort
	err  chan error
}

// begin begins to open a connection to nobody, and waits until conntrack knows it.
func (w *world) begin(ct *conntrack.Conn, from *rig.Host, to netip.AddrPort) begun {
	w.t.Helper()
	b := begun{from, to, make(chan error, 1)}
	before := len(entriesOf(w.t, ct, syscall.IPPROTO_TCP, to, to))
	go func() {
		c, err := from.Dial("tcp", netip.AddrPort{}, to, 5*rig.Patience)
		if err == nil {
			_, err = rig.Exchange(c, rig.Patience)
			c.Close()
		}
		b.err <- err
	}()
	for deadline := time.Now().Add(rig.Patience); len(entriesOf(w.t, ct, syscall.IPPROTO_TCP, to, to)) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("no entry of a connection from %s to %s", from.Name, to)
		}
	}
	return b
}

// DP-16: a client whose first packet came before the Service finds it with a later one of
// the same connection, although conntrack knows that connection as one to nobody. So do
// clients inside where the Service drops what comes from outside (policy Local, no endpoint here).
func TestConnectionsBegunBefore(t *testing.T) {
	w := newWorld(t)
	x, far := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, x)
	w.serve(w.c, far)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, external: []dual{externalIP}, balancer: []dual{balancerIP}}
	local := service{name: "local", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 81, balancer: []dual{balancerIP}, externalLocal: true}
	w.replace()
	ct, r := w.conntrack(), w.reader()
	var all []begun
	for _, v6 := range []bool{false, true} {
		for _, from := range []*rig.Host{w.outside, w.node.Host} {
			all = append(all, w.begin(ct, from, externalIP.port(v6, 80)), w.begin(ct, from, balancerIP.port(v6, 80)))
		}
		for _, from := range []*rig.Host{w.b, w.node.Host} {
			all = append(all, w.begin(ct, from, balancerIP.port(v6, 81)))
		}
	}
	w.update(web.with(x).view(), local.with(far).view())
	for _, b := range all {
		if err := <-b.err; err != nil {
			t.Errorf("a connection from %s to %s that began before the Service: %v", b.from.Name, b.to, err)
		}
	}
	for _, v6 := range []bool{false, true} { // the first repetition of each; a busy machine may see a second
		if got := w.counted(r, v6); !strings.HasPrefix(got, "astray ") {
			t.Errorf("IPv6 %v: refused packets: %s", v6, got)
		}
	}
}

// DP-07, DP-13: UDP flows that began before a Service of policy Local without an endpoint here
// are served from inside, and dropped from outside like others.
func TestUDPBegunBeforeLocal(t *testing.T) {
	w := newWorld(t)
	far := onOther(guestC, 8080)
	w.serve(w.c, far)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, balancer: []dual{balancerIP}, externalLocal: true}
	w.replace()
	var inside, outside []net.Conn
	for _, v6 := range []bool{false, true} {
		for _, to := range []netip.AddrPort{balancerIP.port(v6, 80), nodeAddr.port(v6, 30080)} {
			inside = append(inside, w.flow(w.b, to), w.flow(w.node.Host, to))
			outside = append(outside, w.flow(w.outside, to))
		}
	}
	for _, c := range append(outside, inside...) {
		if a, err := rig.Exchange(c, 50*time.Millisecond); err == nil {
			t.Fatalf("%v answered before the Service existed", a)
		}
	}
	w.update(web.with(far).view())
	for _, c := range inside {
		var err error
		for deadline := time.Now().Add(rig.Patience); ; {
			if _, err = rig.Exchange(c, 100*time.Millisecond); err == nil || time.Now().After(deadline) {
				break
			}
		}
		if err != nil {
			t.Errorf("from %s to %s: no answer after the Service came: %v", c.LocalAddr(), c.RemoteAddr(), err)
		}
	}
	ct := w.conntrack()
	for _, c := range outside {
		to := c.RemoteAddr().(*net.UDPAddr).AddrPort()
		// The first goes astray; those after its entry was deleted are a new flow's.
		for sent, deadline := 1, time.Now().Add(rig.Patience); ; sent++ {
			if a, err := rig.Exchange(c, 100*time.Millisecond); err == nil {
				t.Errorf("from outside to %s: %v answered", to, a)
			}
			if sent >= 3 && (technique != nftablesTechnique || len(entriesBy(t, ct, to, to)) == 0) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("a flow from outside to %s has an entry still", to)
				break
			}
		}
	}
}

// DP-01: a backend that is its own door, as a process of the node at a node's address and the
// Service's port, needs no translation, and isn't taken for a flow that began too early.
func TestOwnDoor(t *testing.T) {
	w := newWorld(t)
	x := onNode(nodeAddr, 8088)
	w.serve(w.node.Host, x)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 8088, external: []dual{nodeAddr}, nodePort: 30088}
	w.replace(web.with(x).view())
	each(t, func(t *testing.T, network string, v6 bool) {
		for _, from := range []*rig.Host{w.outside, w.a, w.node.Host} {
			for _, to := range []netip.AddrPort{nodeAddr.port(v6, 8088), nodeAddr.port(v6, 30088), web.ip.port(v6, 8088)} {
				if a, err := from.Ask(network, to); err != nil || a.Server != x.addr(v6) {
					t.Errorf("from %s to %s: %s answered (%v), want %s", from.Name, to, a.Server, err, x.addr(v6))
				}
			}
		}
	})
}
