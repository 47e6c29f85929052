package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/test/rig"
)

// oneOf gives a Service with a single backend on this or the other node.
func oneOf(e endpoint) service {
	return service{name: "web", ip: pair("10.96.0.70", "fd00:10:96::70"), port: 80, nodePort: 30070}.with(e)
}

// DP-15: a hop behind the Service with a smaller MTU is found: its ICMP errors
// get back to the client that must send less, with the addresses it knows.
func TestPathMTU(t *testing.T) {
	w := newWorld(t)
	e := onOther(guestC, 8080)
	w.serve(w.c, e)
	web := oneOf(e)
	w.replace(web.view())
	for _, a := range []netip.Addr{guestC.v4, guestC.v6} {
		if err := w.other.LimitMTU(netip.PrefixFrom(a, a.BitLen()), 1300); err != nil {
			t.Fatal(err)
		}
	}
	for _, v6 := range []bool{false, true} {
		for name, path := range map[string]struct {
			from *rig.Host
			to   netip.AddrPort
		}{
			"outside": {w.outside, nodeAddr.port(v6, 30070)}, "guest": {w.b, web.ip.port(v6, 80)}, "node": {w.node.Host, web.ip.port(v6, 80)},
		} {
			thereAndBack(t, fmt.Sprintf("%s, IPv6 %v", name, v6), path.from, path.to)
		}
	}
	complained(t, w.other.Host)
}

// thereAndBack sends an echo server much more than one packet holds, and wants it back.
func thereAndBack(t *testing.T, what string, from *rig.Host, to netip.AddrPort) {
	t.Helper()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	c, err := from.Dial("tcp", netip.AddrPort{}, to, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := rig.Exchange(c, rig.Patience); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // Write and Read tell
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		done <- err
	}()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%s: %d of %d bytes came back: %v", what, n, len(sent), err)
	}
	if err := <-done; err != nil {
		t.Errorf("%s: send: %v", what, err)
	}
}

// complained looks that a hop with a small MTU did send ICMP errors of both families, or
// the test shows nothing.
func complained(t *testing.T, hop *rig.Host) {
	t.Helper()
	for file, counter := range map[string]string{"/proc/net/snmp": "OutType3", "/proc/net/snmp6": "Icmp6OutPktTooBigs"} {
		stats, err := hop.Run("cat", file)
		words := strings.Fields(stats)
		at := slices.Index(words, counter) // snmp shows the counters of types that occurred alone
		if err != nil || at < 0 || words[at+1] == "0" {
			t.Errorf("no ICMP error was sent: %v\n%s", err, stats)
		}
	}
}

// DP-15: datagrams that come in fragments are translated whole.
func TestFragments(t *testing.T) {
	w := newWorld(t)
	for _, e := range []endpoint{onNode(guestA, 8080), onOther(guestC, 8080)} {
		h := w.a
		if e.node == "other" {
			h = w.c
		}
		w.serve(h, e)
		web := oneOf(e)
		w.replace(web.view())
		for _, v6 := range []bool{false, true} {
			for _, from := range []*rig.Host{w.outside, w.b, w.node.Host} {
				if technique == ipvsTechnique && v6 && from == w.node.Host {
					continue // IPVS refuses what it would have to cut (ICMPv6, packet too big)
				}
				c, err := from.Dial("udp", netip.AddrPort{}, web.ip.port(v6, 80), rig.Patience)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := c.Write(make([]byte, 4000)); err != nil {
					t.Fatal(err)
				}
				c.SetReadDeadline(time.Now().Add(rig.Patience)) //nolint:errcheck // Read tells
				buf := make([]byte, 200)
				if _, err := c.Read(buf); err != nil {
					t.Errorf("from %s to %s: %v", from.Name, web.ip.of(v6), err)
				}
			}
		}
	}
}

// DP-15: a packet of a backend that conntrack finds invalid never reaches the
// client, who would answer it with a reset (kubernetes/kubernetes#74839); the
// connection goes on.
func TestInvalidPackets(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := oneOf(e)
	w.replace(web.view())
	for _, v6 := range []bool{false, true} {
		for _, client := range []struct {
			host *rig.Host
			at   dual
		}{{w.outside, clientAddr}, {w.b, guestB}, {w.node.Host, porticoIP}} {
			c, err := client.host.Dial("tcp", netip.AddrPort{}, web.ip.port(v6, 80), rig.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := rig.Exchange(c, rig.Patience); err != nil {
				t.Fatal(err)
			}
			ear := client.host.Raw(t, rig.TCP, client.at.of(v6))
			mouth := w.a.Raw(t, rig.TCP, guestA.of(v6))
			to := netip.AddrPortFrom(client.at.of(v6), uint16(c.LocalAddr().(*net.TCPAddr).Port))
			for _, seq := range []uint32{1 << 31, 7 << 28, 3 << 30} { // one of them is far from any window
				if err := mouth.Send(to.Addr(), rig.TCPAck(e.addr(v6), to, seq, seq)); err != nil {
					t.Fatal(err)
				}
			}
			if err := rig.Echo(c, rig.Patience); err != nil {
				t.Errorf("from %s: the connection broke: %v", client.host.Name, err)
			}
			for deadline := time.Now().Add(50 * time.Millisecond); ; {
				from, _, _, err := ear.Receive(deadline)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if from.Addr() == guestA.of(v6) {
					t.Errorf("%s saw an invalid packet from %s", client.host.Name, from)
				}
			}
		}
	}
}

// DP-15: nor does an invalid packet of a backend that is no workload, as a process of another
// node, reach a client, or this node where that stands for the client.
func TestInvalidForeign(t *testing.T) {
	w := newWorld(t)
	e := onOther(otherAddr, 8080)
	w.serve(w.other.Host, e)
	web := oneOf(e)
	w.replace(web.view())
	for _, v6 := range []bool{false, true} {
		for _, from := range []*rig.Host{w.outside, w.b, w.node.Host} {
			mouth := w.other.Raw(t, rig.TCP, e.at.of(v6))
			c, err := from.Dial("tcp", netip.AddrPort{}, web.ip.port(v6, 80), rig.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			a, err := rig.Exchange(c, rig.Patience)
			if err == nil {
				err = rig.Echo(c, rig.Patience)
			}
			if err != nil {
				t.Fatal(err)
			}
			// A reset counts only with the very number that the backend waits for (RFC 5961).
			var next uint32
			heard(t, mouth, a.Client, func(flags byte, after uint32) { next = after })
			for _, seq := range []uint32{1 << 31, 7 << 28, 3 << 30} { // one of them is far from any window
				if err := mouth.Send(a.Client.Addr(), rig.TCPAck(e.addr(v6), a.Client, seq, next)); err != nil {
					t.Fatal(err)
				}
			}
			heard(t, mouth, a.Client, func(flags byte, _ uint32) {
				if flags&rig.RST != 0 {
					t.Errorf("from %s, IPv6 %v: an invalid packet was answered by a reset", from.Name, v6)
				}
			})
			if err := rig.Echo(c, rig.Patience); err != nil {
				t.Errorf("from %s, IPv6 %v: the connection broke: %v", from.Name, v6, err)
			}
		}
	}
}

// heard walks the segments from a client that a host has got: their flags, and the sequence
// number after them.
func heard(t *testing.T, ear *rig.Raw, from netip.AddrPort, segment func(flags byte, after uint32)) {
	t.Helper()
	for deadline := time.Now().Add(50 * time.Millisecond); ; {
		src, _, s, err := ear.Receive(deadline)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			t.Fatal(err)
		case src != from || len(s) < 20:
			continue
		}
		length := uint32(len(s) - int(s[12]>>4)*4)
		if s[13]&rig.SYN != 0 {
			length++
		}
		segment(s[13], binary.BigEndian.Uint32(s[4:])+length)
	}
}

// sctp adds an SCTP port to a Service with endpoints.
func (s service) sctp() catalog.View {
	v := s.view()
	v.Service.Ports = append(v.Service.Ports, catalog.ServicePort{Name: "s", Protocol: catalog.SCTP, Port: s.port, NodePort: s.nodePort})
	for _, sl := range v.Slices {
		sl.Ports = append(sl.Ports, catalog.SlicePort{Name: "s", Protocol: catalog.SCTP, Port: sl.Ports[0].Port})
	}
	return v
}

// DP-01, DP-05, DP-09, DP-10: SCTP, by raw packets, since the kernel here has no sockets for
// it: an INIT reaches the backend, and its answer the client, translated and with
// right checksums; without endpoints the client gets an error at once.
func TestSCTP(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	web := oneOf(e)
	web.external = []dual{externalIP}
	w.replace(web.sctp())
	w.verify()
	port := uint16(20000)
	for _, affinity := range []time.Duration{0, time.Hour} {
		web.affinity = affinity
		w.update(web.sctp())
		w.verify()
		for _, v6 := range []bool{false, true} {
			backend := w.a.Raw(t, rig.SCTP, guestA.of(v6))
			for _, client := range []struct {
				host *rig.Host
				at   dual
			}{{w.outside, clientAddr}, {w.b, guestB}, {w.node.Host, nodeAddr}} {
				ear := client.host.Raw(t, rig.SCTP, client.at.of(v6))
				for _, door := range web.doors(v6) {
					port++
					if err := ear.Send(door.Addr(), rig.SCTPInit(port, door.Port(), false)); err != nil {
						t.Fatal(err)
					}
					from, to, packet, err := backend.Receive(time.Now().Add(rig.Patience))
					if err != nil {
						t.Fatalf("from %s to %s: the backend got nothing: %v", client.host.Name, door, err)
					}
					if to != e.addr(v6) || from != netip.AddrPortFrom(client.at.of(v6), port) || !rig.SCTPSumRight(packet) {
						t.Errorf("from %s to %s: the backend got %s -> %s, checksum right: %v", client.host.Name, door, from, to, rig.SCTPSumRight(packet))
					}
					if err := backend.Send(from.Addr(), rig.SCTPInit(8080, port, true)); err != nil {
						t.Fatal(err)
					}
					from, to, packet, err = ear.Receive(time.Now().Add(rig.Patience))
					if err != nil || from != door || to.Port() != port || !rig.SCTPSumRight(packet) {
						t.Errorf("from %s to %s: the client got %s -> %s, checksum right: %v, %v", client.host.Name, door, from, to, rig.SCTPSumRight(packet), err)
					}
				}
			}
		}
	}
}
