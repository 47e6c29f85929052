package dataplane

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/test/rig"
)

// hostile is a world with a Service under attack and one that must not notice.
type hostile struct {
	*world
	victim, bystander service
	toNode            *rig.Mouth // from the LAN
	toGateway         *rig.Mouth // from guest a
}

func newHostile(t *testing.T) *hostile {
	t.Helper()
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	h := &hostile{
		world:     newWorld(t),
		victim:    service{name: "victim", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, external: []dual{externalIP}, balancer: []dual{balancerIP}}.with(x),
		bystander: service{name: "bystander", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 80, nodePort: 30081}.with(y),
	}
	h.serve(h.a, x)
	h.serve(h.b, y)
	h.replace(h.victim.sctp(), h.bystander.view())
	h.toNode = h.outside.Mouth(t, rig.Uplink, h.node.MAC(t, rig.Uplink))
	h.toGateway = h.a.Mouth(t, "eth0", h.node.MAC(t, "tap0"))
	// The client outside is the router that the node's default route leads to.
	if err := h.outside.Forward(); err != nil {
		t.Fatal(err)
	}
	for _, p := range prefixes("0.0.0.0/0", "::/0") {
		if err := h.node.AddRoute(rig.Route{To: p, Link: rig.Uplink, Via: clientAddr.of(p.Addr().Is6())}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// unharmed looks that the bystander serves everybody, by both protocols and families.
func (h *hostile) unharmed(after string) {
	h.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for _, v6 := range []bool{false, true} {
			for _, from := range []*rig.Host{h.outside, h.c, h.node.Host} {
				to := h.bystander.ip.port(v6, 80)
				if from == h.c { // cluster IPs are its own node's
					to = nodeAddr.port(v6, h.bystander.nodePort)
				}
				if _, err := from.Ask(network, to); err != nil {
					h.t.Errorf("after %s: %s from %s to the bystander: %v", after, network, from.Name, err)
				}
			}
		}
	}
}

// oddity is a way to send a datagram; the packets are sent one after another.
type oddity struct {
	name    string
	served  bool // right, if odd; else nobody may answer it
	packets func(from, to netip.AddrPort) [][]byte
}

// whole puts a datagram with data into one packet that change may spoil.
func whole(name string, served bool, change func(p *rig.IP)) oddity {
	return oddity{name, served, func(from, to netip.AddrPort) [][]byte {
		p := datagram(from, to, []byte("?"))
		change(&p)
		return [][]byte{p.Bytes()}
	}}
}

func datagram(from, to netip.AddrPort, data []byte) rig.IP {
	return rig.IP{From: from.Addr(), To: to.Addr(), Proto: rig.UDP, Payload: rig.UDPDatagram(from, to, data)}
}

// spoiled is likewise, and spoils the bytes of the packet.
func spoiled(name string, change func(b []byte) []byte) oddity {
	return oddity{name, false, func(from, to netip.AddrPort) [][]byte {
		return [][]byte{change(datagram(from, to, []byte("?")).Bytes())}
	}}
}

// fragments sends a datagram of 64 bytes in pieces [from, to), in this order.
func fragments(name string, served bool, pieces ...[2]int) oddity {
	return oddity{name, served, func(from, to netip.AddrPort) (out [][]byte) {
		d := datagram(from, to, bytes.Repeat([]byte("?"), 56))
		all := d.Payload
		d.Fragment, d.ID = true, from.Port()
		for _, p := range pieces {
			d.Payload, d.Offset, d.More = all[p[0]:p[1]], p[0], p[1] < len(all)
			out = append(out, d.Bytes())
		}
		return out
	}}
}

// oddities of both families, and of one. udp is where the UDP header begins.
func oddities(v6 bool) []oddity {
	udp, total := 20, 2
	if v6 {
		udp, total = 40, 4
	}
	both := []oddity{
		whole("nothing odd", true, func(*rig.IP) {}),
		whole("the last hop", technique == userspaceTechnique, func(p *rig.IP) { p.TTL = 1 }),
		whole("half a UDP header", false, func(p *rig.IP) { p.Payload = p.Payload[:4] }),
		whole("no UDP header", false, func(p *rig.IP) { p.Payload = nil }),
		whole("a UDP length beyond the packet", false, func(p *rig.IP) { p.Payload[5] = 200 }),
		whole("a UDP length below the header's", false, func(p *rig.IP) { p.Payload[5] = 7 }),
		whole("a wrong UDP checksum", false, func(p *rig.IP) { p.Payload[6] ^= 0x55 }),
		whole("no UDP checksum", !v6, func(p *rig.IP) { p.Payload[6], p.Payload[7] = 0, 0 }),
		spoiled("an IP length beyond the packet", func(b []byte) []byte { b[total+1] += 40; return b }),
		spoiled("another version", func(b []byte) []byte { b[0] = b[0]&0x0f | 0x50; return b }),
		spoiled("a cut IP header", func(b []byte) []byte { return b[:udp-8] }),
		fragments("fragments", true, [2]int{0, 40}, [2]int{40, 64}),
		fragments("fragments, the last first", true, [2]int{40, 64}, [2]int{0, 40}),
		fragments("tiny fragments", true, [2]int{0, 8}, [2]int{8, 16}, [2]int{16, 64}),
		fragments("fragments that overlap", false, [2]int{0, 40}, [2]int{24, 64}),
		fragments("a fragment of one", true, [2]int{0, 64}), // atomic: RFC 6946
		fragments("a first fragment alone", false, [2]int{0, 40}),
		fragments("a last fragment alone", false, [2]int{40, 64}),
	}
	if !v6 {
		return append(
			both,
			whole("IP options that do nothing", true, func(p *rig.IP) { p.Options = []byte{1, 1, 1, 0} }),
			whole("a source route", false, func(p *rig.IP) { p.Options = append([]byte{131, 7, 4}, append(p.To.AsSlice(), 0)...) }),
			whole("an option longer than the header", false, func(p *rig.IP) { p.Options = []byte{7, 39, 4, 0} }),
			spoiled("a wrong header checksum", func(b []byte) []byte { b[10] ^= 0x55; return b }),
			spoiled("a header length below five", func(b []byte) []byte { b[0] = 0x44; return b }),
			spoiled("a header length beyond the packet", func(b []byte) []byte { b[0] = 0x4f; return b }),
		)
	}
	pad := make([]byte, 6)
	pad[0], pad[1] = 1, 4 // PadN
	return append(
		both,
		whole("hop-by-hop options", true, func(p *rig.IP) { p.Extensions = []rig.Header{{Kind: rig.HopByHop, Body: pad}} }),
		whole("destination options", true, func(p *rig.IP) { p.Extensions = []rig.Header{{Kind: rig.Destination, Body: pad}} }),
		// RFC 5095: type 0 with segments left is an error.
		whole("routing type 0", false, func(p *rig.IP) {
			p.Extensions = []rig.Header{{Kind: rig.Routing, Body: append([]byte{0, 1, 0, 0, 0, 0}, p.To.AsSlice()...)}}
		}),
		whole("an extension header beyond the packet", false, func(p *rig.IP) {
			p.Extensions, p.Proto, p.Payload = []rig.Header{{Kind: rig.HopByHop, Body: pad}}, rig.Destination, []byte{rig.UDP, 200, 1, 4}
		}),
		whole("hop-by-hop options in a wrong place", false, func(p *rig.IP) {
			p.Extensions = []rig.Header{{Kind: rig.Destination, Body: pad}, {Kind: rig.HopByHop, Body: pad}}
		}),
	)
}

// DP-15: what is right, if odd, is served by every door in both families; what is wrong
// gets no answer, and no other Service suffers.
func TestOddPackets(t *testing.T) {
	h := newHostile(t)
	port := uint16(21000)
	for _, v6 := range []bool{false, true} {
		for _, o := range oddities(v6) {
			for _, door := range h.victim.doors(v6) {
				port++
				from := clientAddr.port(v6, port)
				ear, err := h.outside.Listen(from)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range o.packets(from, door) {
					if err := h.toNode.Send(p); err != nil {
						t.Fatalf("%s: %v", o.name, err)
					}
				}
				patience := 20 * time.Millisecond // an answer takes well below one
				if o.served {
					patience = rig.Patience
				}
				ear.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // the read tells
				buf := make([]byte, 200)
				_, answerer, err := ear.ReadFromUDPAddrPort(buf)
				ear.Close()
				switch {
				case o.served && err != nil:
					t.Errorf("%s to %s: no answer: %v", o.name, door, err)
				case !o.served && err == nil:
					t.Errorf("%s to %s: answered", o.name, door)
				case err == nil && answerer != door:
					t.Errorf("%s to %s: answered by %s", o.name, door, answerer)
				}
			}
		}
	}
	h.unharmed("odd packets")
	h.verify()
}

// junk gives packets that have no place, from one source to one door.
func junk(from, to netip.AddrPort) map[string][]byte {
	packet := func(proto byte, payload []byte) []byte {
		return rig.IP{From: from.Addr(), To: to.Addr(), Proto: proto, Payload: payload}.Bytes()
	}
	tcp := func(flags byte, change func(b []byte) []byte) []byte {
		return packet(rig.TCP, change(rig.TCPSegment(from, to, flags, 1, 1, []byte("data"))))
	}
	same := func(b []byte) []byte { return b }
	sctp := rig.SCTPInit(from.Port(), to.Port(), false)
	inner := packet(rig.TCP, rig.TCPSegment(to, from, rig.ACK, 1, 1, nil))
	unreachable, tooBig, code := byte(3), byte(3), byte(4)
	if from.Addr().Is6() {
		unreachable, tooBig, code = 1, 2, 0
	}
	land := netip.AddrPortFrom(to.Addr(), to.Port())
	zero := netip.AddrPortFrom(to.Addr(), 0)
	return map[string][]byte{
		"TCP, half a header":           tcp(rig.SYN, func(b []byte) []byte { return b[:10] }),
		"TCP, ports alone":             tcp(rig.SYN, func(b []byte) []byte { return b[:4] }),
		"TCP, three bytes":             tcp(rig.SYN, func(b []byte) []byte { return b[:3] }),
		"TCP, a header too short":      tcp(rig.SYN, func(b []byte) []byte { b[12] = 3 << 4; return b }),
		"TCP, a header too long":       tcp(rig.SYN, func(b []byte) []byte { b[12] = 15 << 4; return b }),
		"TCP, a wrong checksum":        tcp(rig.SYN, func(b []byte) []byte { b[16] ^= 0x55; return b }),
		"TCP without flags":            tcp(0, same),
		"TCP with all flags":           tcp(0x3f, same),
		"TCP, SYN and FIN":             tcp(rig.SYN|rig.FIN, same),
		"TCP, an answer to nothing":    tcp(rig.SYN|rig.ACK, same),
		"TCP, a reset of nothing":      tcp(rig.RST, same),
		"TCP from itself to itself":    rig.IP{From: to.Addr(), To: to.Addr(), Proto: rig.TCP, Payload: rig.TCPSegment(land, land, rig.SYN, 1, 0, nil)}.Bytes(),
		"UDP from itself to itself":    datagram(land, land, []byte("?")).Bytes(),
		"UDP to port 0":                datagram(from, zero, []byte("?")).Bytes(),
		"UDP from port 0":              datagram(netip.AddrPortFrom(from.Addr(), 0), to, []byte("?")).Bytes(),
		"SCTP, half a header":          packet(rig.SCTP, sctp[:6]),
		"SCTP, a header alone":         packet(rig.SCTP, sctp[:12]),
		"SCTP, a chunk of length 0":    packet(rig.SCTP, append(slices.Clone(sctp[:14]), 0, 0)),
		"SCTP, a wrong checksum":       packet(rig.SCTP, append(slices.Clone(sctp[:8]), append([]byte{1, 2, 3, 4}, sctp[12:]...)...)),
		"an unknown protocol":          packet(253, []byte("experiment")), // RFC 3692
		"no next header":               packet(59, nil),
		"ICMP, an error about nothing": rig.ICMPError(from.Addr(), to.Addr(), unreachable, code, 0, inner),
		"ICMP, a path of 68 bytes":     rig.ICMPError(from.Addr(), to.Addr(), tooBig, code, 68, inner),
		"ICMP, an error without quote": rig.ICMPError(from.Addr(), to.Addr(), unreachable, 3, 0, nil),
		"ICMP, half a quote":           rig.ICMPError(from.Addr(), to.Addr(), unreachable, 3, 0, inner[:14]),
		"ICMP, an error about an error": rig.ICMPError(from.Addr(), to.Addr(), unreachable, 3, 0,
			rig.ICMPError(to.Addr(), from.Addr(), unreachable, 3, 0, inner)),
	}
}

// DP-15: packets that have no place, from outside and from a guest, by sources of
// which most are not the sender's, to every door and past it: the node sends no more
// than came, no Service suffers, an open connection goes on, and the rules stay.
func TestJunk(t *testing.T) {
	h := newHostile(t)
	open := h.established(h.bystander)
	const rounds = 10
	for _, v6 := range []bool{false, true} {
		sources := []dual{
			clientAddr, guestA, guestB, guestC, nodeAddr, porticoIP, h.victim.ip, balancerIP, externalIP,
			pair("127.0.0.1", "::1"), pair("255.255.255.255", "ff02::1"), pair("192.0.2.255", "ff05::2"), pair("224.0.0.1", "ff0e::1"),
			pair("0.0.0.0", "::"), pair("169.254.1.1", "fe80::1"), pair("203.0.113.7", "2001:db8:2::7"),
		}
		doors := h.victim.doors(v6)
		for _, d := range h.victim.doors(v6) { // and a port that isn't there
			doors = append(doors, netip.AddrPortFrom(d.Addr(), 81))
		}
		for _, way := range []struct {
			name  string
			mouth *rig.Mouth
			most  int // packets that the node sends for one
		}{
			{"outside", h.toNode, 2},  // it passes it on, and the answer; or refuses it
			{"guest", h.toGateway, 4}, // what nobody serves goes out, comes back and is refused both times
		} {
			for _, source := range sources {
				for _, door := range doors {
					before, sent := h.traffic(), 0
					for name, p := range junk(source.port(v6, 40000), door) {
						if way.name == "guest" && strings.HasSuffix(name, "to itself") {
							continue // guests' links end it (internal/vm/link); it would circle till its TTL ends
						}
						for range rounds {
							if err := way.mouth.Send(p); err != nil {
								t.Fatalf("%s: %v", name, err)
							}
							sent++
						}
					}
					n := h.quiet() - before
					if circles(source.of(v6), door.Addr(), externalIP.of(v6)) {
						continue
					}
					if n > way.most*sent {
						t.Errorf("from %s as %s to %s: the node sent %d packets for %d", way.name, source.of(v6), door, n, sent)
					}
				}
			}
			h.unharmed("junk from " + way.name)
		}
	}
	for _, c := range open {
		if err := rig.Echo(c, rig.Patience); err != nil {
			t.Errorf("the open connection broke: %v", err)
		}
	}
	each(t, func(t *testing.T, network string, v6 bool) {
		for _, door := range h.victim.doors(v6) {
			if _, err := h.outside.Ask(network, door); err != nil {
				t.Errorf("the victim at %s: %v", door, err)
			}
		}
	})
	h.verify()
}

// circles tells where a technique can't tell that a packet to an external IP's other ports
// would leave by the link it came in on: it goes to and fro till its TTL ends.
func circles(from, to, external netip.Addr) bool {
	switch technique {
	case iptablesTechnique:
		return to == external && slices.ContainsFunc(workloadRanges, func(p netip.Prefix) bool { return p.Contains(from) })
	case userspaceTechnique: // answers to such a source too
		return to == external || from == external
	}
	return false
}

// quiet waits until the node sends no more and gives traffic then.
func (h *hostile) quiet() int {
	h.t.Helper()
	last := h.traffic()
	for deadline := time.Now().Add(rig.Patience); ; {
		time.Sleep(2 * time.Millisecond) // a packet that circles takes microseconds for a round
		now := h.traffic()
		if now == last {
			return now
		}
		if last = now; time.Now().After(deadline) {
			h.t.Fatal("packets circle, and don't end")
		}
	}
}

// traffic counts the packets that the node sent to all others.
func (h *hostile) traffic() int {
	h.t.Helper()
	sum := 0
	for _, name := range []string{rig.Uplink, "tap0", "tap1"} {
		l, err := h.node.Links.LinkByName(name)
		if err != nil {
			h.t.Fatal(err)
		}
		sum += int(l.Attrs().Statistics.TxPackets)
	}
	return sum
}

// DP-15: a datagram that nobody takes, by a source that is a Service's own address: the error
// about it goes out and comes back, and ends there. It would circle till its TTL ends.
func TestReturnedError(t *testing.T) {
	h := newHostile(t)
	for _, v6 := range []bool{false, true} {
		for _, source := range []dual{balancerIP, externalIP} {
			before := h.quiet()
			if err := h.toNode.Send(datagram(source.port(v6, 40000), nodeAddr.port(v6, 81), []byte("?")).Bytes()); err != nil {
				t.Fatal(err)
			}
			if n := h.quiet() - before; n > 4 { // the error, and a neighbour that is asked for and answered; a circle is 33 and more
				t.Errorf("as %s: the node sent %d packets for one", source.of(v6), n)
			}
		}
	}
}

// DP-15: forged ICMP errors that name an open connection, but not what is on its way,
// reach the backend translated and are left alone there: the connection goes on and
// sends no smaller packets.
func TestForgedErrors(t *testing.T) {
	h := newHostile(t)
	open := h.established(h.victim)
	for i, v6 := range []bool{false, true} {
		client := netip.AddrPortFrom(clientAddr.of(v6), uint16(open[i].LocalAddr().(*net.TCPAddr).Port))
		door := nodeAddr.port(v6, h.victim.nodePort)
		router := plan.Router.Of(v6)
		unreachable, tooBig, bigCode, port := byte(3), byte(3), byte(4), byte(3)
		if v6 {
			unreachable, tooBig, bigCode, port = 1, 2, 0, 4
		}
		const seq = 0x12345678 // in the window by a chance of one in 50,000
		inner := rig.IP{From: door.Addr(), To: client.Addr(), Proto: rig.TCP, Payload: rig.TCPSegment(door, client, rig.ACK, seq, 1, nil)}.Bytes()
		before := h.ignored()
		for _, p := range [][]byte{
			rig.ICMPError(router, door.Addr(), unreachable, port, 0, inner),
			rig.ICMPError(router, door.Addr(), tooBig, bigCode, 1280, inner),
		} {
			if err := h.toNode.Send(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := rig.Echo(open[i], rig.Patience); err != nil {
			t.Errorf("IPv6 %v: the connection broke: %v", v6, err)
		}
		if n := h.ignored() - before; n != 2 {
			t.Errorf("IPv6 %v: the backend ignored %d forged errors, want 2", v6, n)
		}
	}
	h.unharmed("forged ICMP errors")
}

// ignored counts the ICMP errors outside the window that the connection's end got.
func (h *hostile) ignored() int {
	h.t.Helper()
	end := h.a
	if technique == userspaceTechnique {
		end = h.node.Host // the connection ends there
	}
	n, err := end.Statistic("/proc/net/netstat", "TcpExt", "OutOfWindowIcmps")
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}
