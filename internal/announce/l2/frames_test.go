package l2

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
)

var (
	own      = mac{2, 0, 0, 0, 0, 1}
	neighbor = mac{2, 0, 0, 0, 0, 9}
	vip4     = netip.MustParseAddr("192.0.2.200")
	vip6     = netip.MustParseAddr("2001:db8::200")
)

// LB-02: a question is answered to who asked, with the link's hardware address.
func TestARP(t *testing.T) {
	q := arp{op: arpRequest, sender: neighbor, senderIP: netip.MustParseAddr("192.0.2.9"), targetIP: vip4}
	got, ok := parseARP(q.frame(broadcast))
	if q.source = neighbor; !ok || got != q {
		t.Fatalf("%+v, %v", got, ok)
	}
	answer := arpAnswer(got, own)
	if !bytes.Equal(answer[:6], neighbor[:]) {
		t.Errorf("the answer goes to %x", answer[:6])
	}
	a, ok := parseARP(answer)
	if want := (arp{op: arpReply, sender: own, senderIP: vip4, target: neighbor, targetIP: q.senderIP, source: own}); !ok || a != want {
		t.Errorf("answered %+v", a)
	}
	for _, f := range arpAnnouncements(vip4, own) {
		if a, ok := parseARP(f); !ok || a.senderIP != vip4 || a.targetIP != vip4 || a.sender != own || !bytes.Equal(f[:6], broadcast[:]) {
			t.Errorf("announced %+v", a)
		}
	}
}

// LB-02: the same by neighbour discovery; mdlayher/ndp reads what we write.
func TestND(t *testing.T) {
	client := netip.MustParseAddr("fe80::9")
	group := solicitedGroup(vip6)
	if group != netip.MustParseAddr("ff02::1:ff00:200") {
		t.Fatalf("group %s", group)
	}
	body := append([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, vip6.AsSlice()...)
	q, ok := parseND(icmpFrame(client, group, neighbor, groupMAC(group), body))
	if !ok || q.target != vip6 || q.from != client || q.source != neighbor {
		t.Fatalf("%+v, %v", q, ok)
	}
	probe, ok := parseND(ndProbe(vip6, neighbor))
	if !ok || !probe.from.IsUnspecified() || probe.target != vip6 {
		t.Fatalf("%+v, %v", probe, ok)
	}
	for what, c := range map[string]struct {
		frame     []byte
		to        netip.Addr
		toMAC     mac
		solicited bool
	}{
		"answer":            {ndAnswer(q, own), client, neighbor, true},
		"answer to a probe": {ndAnswer(probe, own), allNodes, mac{0x33, 0x33, 0, 0, 0, 1}, false},
		"announcement":      {ndAnnouncement(vip6, own), allNodes, mac{0x33, 0x33, 0, 0, 0, 1}, false},
	} {
		n, ok := parseND(c.frame)
		if !ok || n.kind != advertisement || n.target != vip6 || n.owner != own || n.to != c.to || !bytes.Equal(c.frame[:6], c.toMAC[:]) {
			t.Errorf("%s: %+v, %v", what, n, ok)
		}
		m, err := ndp.ParseMessage(c.frame[ethernetHeader+ipv6Header:])
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if na := m.(*ndp.NeighborAdvertisement); !na.Override || na.Solicited != c.solicited || na.Router {
			t.Errorf("%s: %+v", what, na)
		}
	}
}

// What isn't a whole and honest message is no question.
func TestBadFrames(t *testing.T) {
	group := solicitedGroup(vip6)
	good := ndProbe(vip6, neighbor)
	change := func(f []byte, at int, to byte) []byte {
		f = bytes.Clone(f)
		f[at] = to
		return f
	}
	for what, f := range map[string][]byte{
		"came by a router":    change(good, ethernetHeader+7, 254),
		"wrong checksum":      change(good, ethernetHeader+ipv6Header+2, ^good[ethernetHeader+ipv6Header+2]),
		"longer than it is":   change(good, ethernetHeader+5, 200),
		"shorter than a head": good[:60],
		"an empty option": icmpFrame(netip.MustParseAddr("fe80::9"), group, neighbor, groupMAC(group),
			append(append([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, vip6.AsSlice()...), 1, 0, 0, 0, 0, 0, 0, 0)),
		"from a group": change(good, 6, 0x33),
	} {
		if n, ok := parseND(f); ok {
			t.Errorf("%s: read as %+v", what, n)
		}
	}
	request := arp{op: arpRequest, sender: neighbor, senderIP: netip.MustParseAddr("192.0.2.9"), targetIP: vip4}.frame(broadcast)
	for what, f := range map[string][]byte{
		"short": request[:41], "other hardware": change(request, 15, 6), "from a group": change(request, 6, 1), "sender is a group": change(request, 22, 1),
	} {
		if a, ok := parseARP(f); ok {
			t.Errorf("%s: read as %+v", what, a)
		}
	}
}

func TestFilter(t *testing.T) {
	raw, err := ndFilter()
	if err != nil {
		t.Fatal(err)
	}
	program, _ := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	udp := ndProbe(vip6, neighbor)
	udp[ethernetHeader+6] = 17
	router := ndProbe(vip6, neighbor)
	router[ethernetHeader+ipv6Header] = 133
	for what, c := range map[string]struct {
		frame []byte
		pass  bool
	}{"solicitation": {ndProbe(vip6, neighbor), true}, "advertisement": {ndAnnouncement(vip6, own), true}, "UDP": {udp, false}, "router solicitation": {router, false}} {
		if n, err := vm.Run(c.frame); err != nil || n > 0 != c.pass {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
}

func FuzzARP(f *testing.F) {
	f.Add(arpProbe(vip4, own))
	f.Add(arpAnnouncements(vip4, own)[1])
	f.Fuzz(func(t *testing.T, frame []byte) {
		a, ok := parseARP(frame)
		if !ok {
			return
		}
		if again, ok := parseARP(arpAnswer(a, own)); !ok || again.senderIP != a.targetIP || again.target != a.sender {
			t.Errorf("%+v is answered by %+v", a, again)
		}
	})
}

func FuzzND(f *testing.F) {
	f.Add(ndProbe(vip6, own))
	f.Add(ndAnnouncement(vip6, own))
	f.Fuzz(func(t *testing.T, frame []byte) {
		n, ok := parseND(frame)
		if !ok || n.kind != solicitation {
			return
		}
		if again, ok := parseND(ndAnswer(n, own)); !ok || again.target != n.target || again.owner != own {
			t.Errorf("%+v is answered by %+v", n, again)
		}
	})
}
