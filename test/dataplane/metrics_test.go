package dataplane

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/test/rig"
)

// counted gives what the kernel has refused in one family, like "no_endpoint 3"; of
// invalid packets without the number, for a connection's first one is anywhere.
func (w *world) counted(r *nftables.Reader, v6 bool) string {
	w.t.Helper()
	c, err := r.Counts()
	if err != nil {
		w.t.Fatal(err)
	}
	of := c.Refused[0]
	if v6 {
		of = c.Refused[1]
	}
	var words []string
	for _, why := range slices.Sorted(maps.Keys(of)) {
		switch {
		case of[why] == 0:
		case why == dataplane.Invalid:
			words = append(words, string(why))
		default:
			words = append(words, fmt.Sprint(why, " ", of[why]))
		}
	}
	if len(of) != 7 {
		w.t.Errorf("%d reasons are counted, want 7: %v", len(of), of)
	}
	return strings.Join(words, ", ")
}

// OPS-01: each refused packet is counted under its reason, and no other packet is.
func TestRefusedPackets(t *testing.T) {
	w := newWorld(t)
	r := w.reader()
	here, there := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, here)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, balancer: []dual{balancerIP}, ranges: prefixes("203.0.113.0/24", "2001:db8:9::/64")}.with(here)
	none := service{name: "none", ip: pair("10.96.0.22", "fd00:10:96::22"), port: 80, nodePort: 30082}
	far := service{name: "far", ip: pair("10.96.0.23", "fd00:10:96::23"), port: 80, nodePort: 30083, externalLocal: true}.with(there)
	w.replace(web.view(), none.view(), far.view())
	for _, v6 := range []bool{false, true} {
		// What is served is counted by nothing.
		for _, h := range []*rig.Host{w.outside, w.b, w.node.Host} {
			for _, network := range []string{"tcp", "udp"} {
				for _, to := range []netip.AddrPort{web.ip.port(v6, 80), nodeAddr.port(v6, 30080)} {
					if _, err := h.Ask(network, to); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if got := w.counted(r, v6); got != "" {
			t.Errorf("IPv6 %v: served packets count as %s", v6, got)
		}
		udp := func(h *rig.Host, to netip.AddrPort) {
			t.Helper()
			c, err := h.Dial("udp", netip.AddrPort{}, to, rig.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil && h != w.node.Host {
				t.Fatal(err)
			}
		}
		var want []string
		for _, step := range []struct {
			why   dataplane.Reason
			doors []netip.AddrPort
		}{
			{dataplane.NoEndpoint, []netip.AddrPort{none.ip.port(v6, 80), nodeAddr.port(v6, 30082)}},
			{dataplane.NoLocalEndpoint, []netip.AddrPort{nodeAddr.port(v6, 30083)}},
			{dataplane.OutsideRanges, []netip.AddrPort{balancerIP.port(v6, 80)}},
			{dataplane.UnknownAddress, []netip.AddrPort{pair("10.96.7.7", "fd00:10:96::7777").port(v6, 80)}},
			{dataplane.UnknownPort, []netip.AddrPort{web.ip.port(v6, 81), balancerIP.port(v6, 81)}},
		} {
			for _, door := range step.doors {
				udp(w.outside, door)
			}
			want = append(want, fmt.Sprint(step.why, " ", len(step.doors)))
			slices.Sort(want)
			w.becomes(strings.Join(want, ", "), func() string { return w.counted(r, v6) })
		}
		w.sendInvalid(v6, web, here)
		want = append(want, "invalid")
		slices.Sort(want)
		w.becomes(strings.Join(want, ", "), func() string { return w.counted(r, v6) })
	}
	// Numbers are no difference, and a change that isn't about these rules keeps them.
	w.verify()
	before := w.counted(r, false)
	w.update(none.with(here).view())
	if got := w.counted(r, false); got != before {
		t.Errorf("after a change: %s, before: %s", got, before)
	}
	w.stop()
	w.start()
	w.replace(web.view(), none.view(), far.view())
	if got := w.counted(r, false); got != before {
		t.Errorf("after a restart: %s, before: %s", got, before)
	}
	// Where somebody has put a counter of his own, nothing is known of that chain.
	w.stop()
	w.nft("add rule ip portico unserved counter")
	c, err := r.Counts()
	_, known := c.Refused[0][dataplane.NoEndpoint]
	_, others := c.Refused[0][dataplane.OutsideRanges]
	if err != nil || known || !others {
		t.Errorf("a chain with a foreign counter: %v, %v", c.Refused[0], err)
	}
}

// sendInvalid has a backend send three packets that fit no window of its connection.
func (w *world) sendInvalid(v6 bool, web service, e endpoint) {
	w.t.Helper()
	c, err := w.outside.Dial("tcp", netip.AddrPort{}, web.ip.port(v6, 80), rig.Patience)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if _, err := rig.Exchange(c, rig.Patience); err != nil {
		w.t.Fatal(err)
	}
	mouth := w.a.Raw(w.t, rig.TCP, e.at.of(v6))
	to := netip.AddrPortFrom(clientAddr.of(v6), uint16(c.LocalAddr().(*net.TCPAddr).Port))
	for _, seq := range []uint32{1 << 31, 7 << 28, 3 << 30} {
		if err := mouth.Send(to.Addr(), rig.TCPAck(e.addr(v6), to, seq, seq)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// becomes waits for a packet on its way.
func (w *world) becomes(want string, look func() string) {
	w.t.Helper()
	var got string
	for deadline := time.Now().Add(rig.Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = look(); got == want {
			return
		}
	}
	w.t.Errorf("counted %q, want %q", got, want)
}

// OPS-01: conntrack's use is that of the node's own network namespace.
func TestConntrackUse(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80}.with(e)
	w.replace(web.view())
	r := w.reader()
	before, err := r.Counts()
	if err != nil {
		t.Fatal(err)
	}
	const asked = 7
	for range asked {
		if _, err := w.b.Ask("tcp", web.ip.port(false, 80)); err != nil {
			t.Fatal(err)
		}
	}
	after, err := r.Counts()
	if err != nil {
		t.Fatal(err)
	}
	want := uint64(asked)
	if technique == userspaceTechnique {
		want *= 2 // the client's and the proxy's
	}
	if n := after.Connections - before.Connections; n != want || after.MaxConnections < asked {
		t.Errorf("%d more entries of %d after %d connections", n, after.MaxConnections, asked)
	}
}
