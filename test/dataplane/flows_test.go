package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"

	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/test/rig"
)

// DP-13, DP-16: a UDP flow that a client keeps open moves to a live backend when its
// own stops serving, and finds the first endpoint that appears after it began. The
// client's socket is connected to the Service's address all the time.
func TestUDPFlows(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, external: []dual{externalIP}, balancer: []dual{balancerIP}}
	w.replace()
	for _, from := range []*rig.Host{w.c, w.node.Host, w.outside} {
		for _, to := range []struct {
			at   dual
			port uint16
		}{{web.ip, 80}, {nodeAddr, 30080}, {externalIP, 80}, {balancerIP, 80}} {
			if from == w.c && to.at != nodeAddr {
				continue // that guest's own node serves them for it
			}
			for _, v6 := range []bool{false, true} {
				w.follow(from, to.at.port(v6, to.port), web, x, y)
			}
		}
	}
	if technique != nftablesTechnique {
		return
	}
	if n := w.flowCounts(); n.Lists != 1 || !n.Indexed {
		t.Errorf("want one list of conntrack, at the start, got %+v", n)
	}
}

// follow takes one flow through changes of its Service.
func (w *world) follow(from *rig.Host, to netip.AddrPort, web service, x, y endpoint) {
	w.t.Helper()
	v6 := to.Addr().Is6()
	c := w.flow(from, to)
	if a, err := rig.Exchange(c, 50*time.Millisecond); err == nil {
		w.t.Fatalf("%v answered before the Service existed", a)
	}
	w.update(web.with(x).view())
	// The first datagram that meets the new rules shows that the flow goes astray.
	for deadline := time.Now().Add(rig.Patience); ; {
		a, err := rig.Exchange(c, 100*time.Millisecond)
		if err == nil && a.Server == x.addr(v6) {
			break
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("from %s to %s: no answer after the first endpoint came: %v", from.Name, to, err)
		}
	}
	for _, step := range []struct {
		set  []endpoint
		want endpoint
	}{
		{[]endpoint{x.in(terminating), y}, x},           // still serves: the flow stays
		{[]endpoint{x.in(notReady), y}, y},              // stopped serving
		{[]endpoint{x}, x},                              // gone
		{[]endpoint{x.in(notReady), y.in(notReady)}, x}, // nobody else serves: the flow stays
		{[]endpoint{y, x.in(notReady)}, y},
	} {
		w.update(web.with(step.set...).view())
		w.answers(c, step.want.addr(v6))
	}
	w.update(web.gone())
}

// flow opens a UDP socket that is connected to an address.
func (w *world) flow(from *rig.Host, to netip.AddrPort) net.Conn {
	w.t.Helper()
	c, err := from.Dial("udp", netip.AddrPort{}, to, rig.Patience)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// answers sends a datagram and wants this server's answer. The socket may hold an
// error of earlier ones, and answers to them that came late, so it reads on. It sends
// no more, and a flow that stays with another server never gets the answer.
func (w *world) answers(c net.Conn, want netip.AddrPort) {
	w.t.Helper()
	a, err := rig.Exchange(c, rig.Patience)
	if err != nil {
		a, err = rig.Exchange(c, rig.Patience)
	}
	first := a.Server
	for end := time.Now().Add(rig.Patience); err == nil && a.Server != want; {
		a, err = rig.Next(c, time.Until(end))
	}
	if err != nil {
		w.t.Errorf("to %s: %s answered first (%v), want %s", c.RemoteAddr(), first, err, want)
	}
}

func (w *world) flowCounts() nftables.FlowCounts {
	return w.backend.(*nftables.Backend).FlowCounts()
}

// conntrack opens conntrack of the node.
func (w *world) conntrack() *conntrack.Conn {
	w.t.Helper()
	var c *conntrack.Conn
	if err := w.node.Do(func() (err error) {
		c, err = conntrack.Dial(nil)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// entries gives the numbers of UDP entries for a door.
func entries(t *testing.T, c *conntrack.Conn, to netip.AddrPort) []uint32 {
	t.Helper()
	return entriesBy(t, c, to, netip.AddrPort{})
}

// entriesBy gives those that one backend answers; an invalid one is any.
func entriesBy(t *testing.T, c *conntrack.Conn, to, by netip.AddrPort) []uint32 {
	t.Helper()
	return entriesOf(t, c, syscall.IPPROTO_UDP, to, by)
}

func entriesOf(t *testing.T, c *conntrack.Conn, protocol uint8, to, by netip.AddrPort) (ids []uint32) {
	t.Helper()
	flows, err := c.Dump(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		o, r := &flows[i].TupleOrig, &flows[i].TupleReply
		if by.IsValid() && netip.AddrPortFrom(r.IP.SourceAddress, r.Proto.SourcePort) != by {
			continue
		}
		if o.Proto.Protocol == protocol && netip.AddrPortFrom(o.IP.DestinationAddress, o.Proto.DestinationPort) == to {
			ids = append(ids, flows[i].ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// DP-16, DP-20: what a change costs in conntrack is the flows of its frontends, however
// many entries there are; flows of others keep their entries; each flow whose
// backend goes moves with its next datagram, none is forgotten.
func TestFlowCost(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80}
	other := service{name: "other", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 80}
	w.replace(web.with(x).view(), other.with(x, y).view())
	ct := w.conntrack()
	const strangers = 3000
	for i := range strangers {
		f := conntrack.NewFlow(syscall.IPPROTO_UDP, 0, netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), addr("203.0.113.1"), 5000, 53, 600, 0)
		if err := ct.Create(f); err != nil {
			t.Fatal(err)
		}
	}
	const flows = 20
	var ours, others []net.Conn
	for range flows {
		for _, v6 := range []bool{false, true} {
			ours, others = append(ours, w.flow(w.outside, web.ip.port(v6, 80))), append(others, w.flow(w.outside, other.ip.port(v6, 80)))
		}
	}
	for _, c := range append(slices.Clone(ours), others...) {
		if _, err := rig.Exchange(c, rig.Patience); err != nil {
			t.Fatal(err)
		}
	}
	kept := entries(t, ct, other.ip.port(false, 80))
	before := w.flowCounts()
	w.update(web.with(y).view())
	after := w.flowCounts()
	if got := after.Deleted - before.Deleted; got != 2*flows {
		t.Errorf("%d entries were deleted, want %d", got, 2*flows)
	}
	if got := after.Asked - before.Asked; got > 4*flows { // once, and once more a little later
		t.Errorf("%d entries were asked for, want at most %d", got, 4*flows)
	}
	if after.Lists != before.Lists {
		t.Error("the change listed conntrack")
	}
	for _, c := range ours {
		w.answers(c, y.addr(c.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Is6()))
	}
	if now := entries(t, ct, other.ip.port(false, 80)); !slices.Equal(now, kept) {
		t.Errorf("flows of another Service have other entries now: %v, before %v", now, kept)
	}
	if n := len(entries(t, ct, netip.MustParseAddrPort("203.0.113.1:53"))); n != strangers {
		t.Errorf("%d of %d entries of strangers are left", n, strangers)
	}
	// Of one Service's flows those to the backend that stays keep their entries.
	toY := entriesBy(t, ct, other.ip.port(false, 80), y.addr(false))
	if len(toY) == 0 || len(toY) == flows {
		t.Fatalf("%d of %d flows went to one of two backends", len(toY), flows)
	}
	w.update(other.with(y).view())
	if now := entriesBy(t, ct, other.ip.port(false, 80), y.addr(false)); !slices.Equal(now, toY) {
		t.Errorf("flows to the backend that stays have the entries %v now, before %v", now, toY)
	}
	before = w.flowCounts()
	w.update(web.with(x.in(terminating), y).view()) // nobody loses anything
	if after := w.flowCounts(); after.Asked != before.Asked && after.Deleted != before.Deleted {
		t.Errorf("a change that no flow loses by went from %+v to %+v", before, after)
	}
}

// DP-16, DP-18: flows begin before the program starts, while it is away and after,
// and all end with their backend. A backend may also go while nobody looks.
func TestFlowsOverRestart(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80}
	w.replace(web.with(x).view())
	to := web.ip.port(false, 80)
	begin := func() net.Conn {
		c := w.flow(w.outside, to)
		w.answers(c, x.addr(false))
		return c
	}
	first := begin()
	w.stop()
	second := begin()
	w.start()
	w.replace(web.with(x).view())
	third := begin()
	w.update(web.with(y).view())
	for _, c := range []net.Conn{first, second, third} {
		w.answers(c, y.addr(false))
	}
	w.stop()
	w.start()
	w.replace(web.with(x).view())
	for _, c := range []net.Conn{first, second, third} {
		w.answers(c, x.addr(false))
	}
}

// DP-16: a flood of flows overruns what the program can take. The flood ends the
// records, one list finds what must end, and the next change needs none.
func TestFlowFlood(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80}
	to := web.ip.port(false, 80)
	const most = 50
	w.stop()
	w.config.UDPFlows = most
	w.start()
	w.replace(web.with(x).view())
	before := w.flow(w.outside, to)
	w.answers(before, x.addr(false))
	for range 2 * most {
		c := w.flow(w.outside, to)
		w.answers(c, x.addr(false))
		c.Close()
	}
	for deadline := time.Now().Add(rig.Patience); w.flowCounts().Indexed; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the flood was taken whole")
		}
	}
	w.forget(to, before)
	during := w.flow(w.outside, to)
	w.answers(during, x.addr(false))
	w.update(web.with(y).view())
	w.answers(before, y.addr(false))
	w.answers(during, y.addr(false))
	n := w.flowCounts()
	if n.Lists != 2 || !n.Indexed {
		t.Errorf("want two lists, at the start and after the flood, and an index, got %+v", n)
	}
	after := w.flow(w.outside, to)
	w.answers(after, y.addr(false))
	w.update(web.with(x).view())
	for _, c := range []net.Conn{before, during, after} {
		w.answers(c, x.addr(false))
	}
	if n := w.flowCounts(); n.Lists != 2 {
		t.Errorf("a change after the flood listed conntrack again: %+v", n)
	}
}

// forget deletes the entries for a door but that of one client: it takes the place
// of time, in which entries of flows with one answer end.
func (w *world) forget(to netip.AddrPort, but net.Conn) {
	w.t.Helper()
	ct := w.conntrack()
	flows, err := ct.Dump(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range flows {
		o := &f.TupleOrig
		client := netip.AddrPortFrom(o.IP.SourceAddress, o.Proto.SourcePort)
		if netip.AddrPortFrom(o.IP.DestinationAddress, o.Proto.DestinationPort) == to && client.String() != but.LocalAddr().String() {
			if err := ct.Delete(f); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// DP-11, DP-16: connections to a pod that is gone, and closed nothing, are reset when
// the client sends. Those to a backend that terminates and serves go on,
// as do those to one that only left the Service, and those of other Services.
func TestGoneBackend(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	far := onOther(guestC, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	w.serve(w.c, far)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, external: []dual{externalIP}}
	other := service{name: "other", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 80}
	w.replace(web.with(x).view(), other.with(x, far).view())
	open := w.connection
	var toX, toY []net.Conn
	all := func() (out []net.Conn) {
		for _, v6 := range []bool{false, true} {
			out = append(
				out, open(w.outside, web.ip.port(v6, 80)), open(w.outside, nodeAddr.port(v6, 30080)), open(w.outside, externalIP.port(v6, 80)),
				open(w.b, web.ip.port(v6, 80)), open(w.node.Host, web.ip.port(v6, 80)), open(w.node.Host, nodeAddr.port(v6, 30080)),
			)
		}
		return out
	}
	goOn := func(when string, conns []net.Conn) {
		t.Helper()
		for _, c := range conns {
			if err := rig.Echo(c, rig.Patience); err != nil {
				t.Errorf("%s: %s to %s: %v", when, c.LocalAddr(), c.RemoteAddr(), err)
			}
		}
	}
	toX = all()
	elsewhere := open(w.outside, other.ip.port(false, 80))
	w.update(web.with(x.in(terminating), y).view())
	toY = all()
	goOn("while it terminates and serves", toX)

	// Another Service still lists the guest: it is there as far as we know.
	w.update(web.with(y).view())
	goOn("while another Service has it", toX)
	w.verify()

	// Its link is cut and all Services have lost it.
	w.update(other.with(x.in(terminating), far).view())
	w.update(other.with(far).view())
	for _, c := range toX {
		if err := rig.Echo(c, rig.Patience); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("gone: %s to %s: want a reset, got %v", c.LocalAddr(), c.RemoteAddr(), err)
		}
	}
	_ = elsewhere
	goOn("the other backend's, after the first was gone", toY)
	w.verify()

	if technique == userspaceTechnique {
		return // connections end with the program
	}
	// A restart knows it still.
	w.update(web.with(y.in(terminating), x).view())
	again := all()
	goOn("a backend with the old address", again)
	w.update(web.with(x).view())
	w.stop()
	w.start()
	w.replace(web.with(x).view(), other.with(far).view())
	w.verify()
	for _, c := range toY {
		if err := rig.Echo(c, rig.Patience); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("gone before the restart: %s to %s: want a reset, got %v", c.LocalAddr(), c.RemoteAddr(), err)
		}
	}
	// What leaves the Service without having terminated lives on.
	w.update(web.with(far).view())
	goOn("after the label of its pod changed", again)
}
