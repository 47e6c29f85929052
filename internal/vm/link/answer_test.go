package link

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

var testGuest = Guest{
	ID: "8d0b6c0e-2f7e-4a52-9a3c-0f6d9b9b8a01", Namespace: "example-namespace", Name: "example-vm",
	MAC:      net.HardwareAddr{0x02, 0x70, 0x6f, 0, 0, 7},
	Addrs:    []netip.Addr{netip.MustParseAddr("10.245.0.7"), netip.MustParseAddr("fd00:10:245::7")},
	Hostname: "example-vm",
	DNS:      []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")},
	Search:   []string{"example-namespace.svc.cluster.local", "svc.cluster.local"},
}

func testResponder(t testing.TB, change ...func(*Guest)) *responder {
	t.Helper()
	g := testGuest
	for _, f := range change {
		f(&g)
	}
	r, err := newResponder(g, 1450)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// frame4 makes what a DHCPv4 client broadcasts.
func frame4(msg *dhcpv4.DHCPv4, mac net.HardwareAddr) []byte {
	f := udp4(broadcastMAC, broadcast, msg.ToBytes())
	copy(f[6:12], mac)
	clear(f[26:30])                                 // from 0.0.0.0
	binary.BigEndian.PutUint16(f[34:], dhcp4Client) // the ports the other way round
	binary.BigEndian.PutUint16(f[36:], dhcp4Server)
	return f
}

var clientLL = netip.MustParseAddr("fe80::70:6fff:fe00:7")

// frame6 makes what a DHCPv6 client or a soliciting host multicasts.
func frame6(protocol byte, body []byte) []byte {
	f := ipv6Frame(net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}, netip.MustParseAddr("ff02::1:2"), protocol, body)
	copy(f[6:12], testGuest.MAC)
	copy(f[22:38], clientLL.AsSlice())
	return f
}

func solicitation6(msg *dhcpv6.Message) []byte {
	return frame6(unix.IPPROTO_UDP, udpTo(clientLL, netip.MustParseAddr("ff02::1:2"), dhcp6Client, dhcp6Server, msg.ToBytes()))
}

func routerSolicit() []byte {
	body, err := ndp.MarshalMessageChecksum(&ndp.RouterSolicitation{}, clientLL, netip.MustParseAddr("ff02::2"))
	if err != nil {
		panic(err)
	}
	return frame6(unix.IPPROTO_ICMPV6, body)
}

// reply4 takes an answer apart as the client would, checksums and all.
func reply4(t *testing.T, f []byte) (*dhcpv4.DHCPv4, netip.Addr) {
	t.Helper()
	if f == nil {
		t.Fatal("no answer")
	}
	if !bytes.Equal(f[6:12], GatewayMAC) || fold(sum(0, f[14:34])) != 0xffff {
		t.Fatalf("a bad header: %x", f[:34])
	}
	checkUDP(t, f[26:30], f[30:34], f[34:])
	if binary.BigEndian.Uint16(f[34:]) != 67 || binary.BigEndian.Uint16(f[36:]) != 68 {
		t.Fatalf("ports %x", f[34:38])
	}
	msg, err := dhcpv4.FromBytes(f[42:])
	if err != nil {
		t.Fatal(err)
	}
	return msg, netip.AddrFrom4([4]byte(f[30:34]))
}

func reply6(t *testing.T, f []byte) *dhcpv6.Message {
	t.Helper()
	if f == nil {
		t.Fatal("no answer")
	}
	if !bytes.Equal(f[:6], testGuest.MAC) || netip.AddrFrom16([16]byte(f[22:38])) != Gateway6 || netip.AddrFrom16([16]byte(f[38:54])) != clientLL {
		t.Fatalf("a bad header: %x", f[:54])
	}
	checkUDP(t, f[22:38], f[38:54], f[54:])
	msg, err := dhcpv6.MessageFromBytes(f[62:])
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func checkUDP(t *testing.T, src, dst, udp []byte) {
	t.Helper()
	if int(binary.BigEndian.Uint16(udp[4:6])) != len(udp) {
		t.Fatalf("UDP says %d bytes, there are %d", binary.BigEndian.Uint16(udp[4:6]), len(udp))
	}
	if got := fold(sum(sum(sum(sum(0, src), dst), []byte{0, 17, udp[4], udp[5]}), udp)); got != 0xffff {
		t.Fatalf("UDP checksum is wrong: %x", got)
	}
}

// VM-04: DHCPv4 hands out the claimed address, the way out, resolvers and search path.
func TestDHCPv4(t *testing.T) {
	r := testResponder(t)
	discover, err := dhcpv4.NewDiscovery(testGuest.MAC)
	if err != nil {
		t.Fatal(err)
	}
	offer, _ := reply4(t, r.answer(frame4(discover, testGuest.MAC)))
	if offer.MessageType() != dhcpv4.MessageTypeOffer {
		t.Fatalf("got %s", offer.MessageType())
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		t.Fatal(err)
	}
	ack, to := reply4(t, r.answer(frame4(request, testGuest.MAC)))
	if ack.MessageType() != dhcpv4.MessageTypeAck || to != testGuest.Addrs[0] {
		t.Fatalf("got %s to %s", ack.MessageType(), to)
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"address", ack.YourIPAddr.String(), "10.245.0.7"},
		{"mask", ack.SubnetMask().String(), "ffffffff"},
		{"router", ack.Router()[0].String(), "169.254.1.1"},
		{"routes", dhcpv4.Routes(ack.ClasslessStaticRoute()).String(), "route to 169.254.1.1/32 via 0.0.0.0; route to 0.0.0.0/0 via 169.254.1.1"},
		{"server", ack.ServerIdentifier().String(), "169.254.1.1"},
		{"DNS", len(ack.DNS()) == 1 && ack.DNS()[0].Equal(net.IPv4(10, 96, 0, 10)), true},
		{"search", strings.Join(ack.DomainSearch().Labels, " "), "example-namespace.svc.cluster.local svc.cluster.local"},
		{"domain", ack.DomainName(), "example-namespace.svc.cluster.local"},
		{"host name", ack.HostName(), "example-vm"},
		{"lease", ack.IPAddressLeaseTime(0), 30 * 24 * time.Hour},
		{"renewal", ack.IPAddressRenewalTime(0), time.Hour},
		{"MTU", ack.Options.Get(dhcpv4.OptionInterfaceMTU)[1], byte(1450 & 0xff)},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}

// VM-04: what the server refuses and what it leaves unanswered.
func TestDHCPv4Refuses(t *testing.T) {
	other := net.HardwareAddr{0x02, 0x70, 0x6f, 0, 0, 8}
	for _, c := range []struct {
		name string
		mac  net.HardwareAddr // of the frame
		msg  []dhcpv4.Modifier
		want dhcpv4.MessageType // 0: no answer
		to   string
	}{
		{name: "another's address", msg: request(dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 245, 0, 8)))), want: dhcpv4.MessageTypeNak, to: "255.255.255.255"},
		{name: "rebooting with another's address by ciaddr", msg: request(dhcpv4.WithClientIP(net.IPv4(10, 245, 0, 8))), want: dhcpv4.MessageTypeNak, to: "255.255.255.255"},
		{name: "renewing", msg: request(dhcpv4.WithClientIP(net.IPv4(10, 245, 0, 7))), want: dhcpv4.MessageTypeAck, to: "10.245.0.7"},
		{name: "broadcast wanted", msg: request(dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 245, 0, 7)))), want: dhcpv4.MessageTypeAck, to: "255.255.255.255"},
		{name: "another server chosen", msg: request(dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))))},
		{name: "another MAC in the message", msg: request(dhcpv4.WithHwAddr(other))},
		{name: "another MAC in the frame", mac: other, msg: request()},
		{name: "relayed", msg: request(dhcpv4.WithGatewayIP(net.IPv4(10, 245, 0, 9)))},
		{name: "release", msg: request(dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease))},
		{name: "decline", msg: request(dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline))},
		{name: "an answer", msg: request(func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply })},
		{name: "inform", msg: request(dhcpv4.WithMessageType(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(net.IPv4(10, 245, 0, 7))), want: dhcpv4.MessageTypeAck, to: "10.245.0.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			msg, err := dhcpv4.New(c.msg...)
			if err != nil {
				t.Fatal(err)
			}
			if c.mac == nil {
				c.mac = testGuest.MAC
			}
			answer := testResponder(t).answer(frame4(msg, c.mac))
			if c.want == 0 {
				if answer != nil {
					t.Fatalf("answered %x", answer)
				}
				return
			}
			got, to := reply4(t, answer)
			if got.MessageType() != c.want || to.String() != c.to {
				t.Errorf("%s to %s, want %s to %s", got.MessageType(), to, c.want, c.to)
			}
		})
	}
}

func request(m ...dhcpv4.Modifier) []dhcpv4.Modifier {
	return append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(testGuest.MAC), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}, m...)
}

// A search path too long for a client's buffer is left out, the rest arrives.
func TestDHCPv4Size(t *testing.T) {
	long := func(g *Guest) {
		for range 8 {
			g.Search = append(g.Search, strings.Repeat("abcdefgh.", 7)+"example")
		}
	}
	for _, c := range []struct {
		size   uint16 // the client's; 0: unsaid
		search bool
		limit  int
	}{{0, false, 576}, {1400, true, 1400}, {100, false, 576}} {
		m := request(dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
		if c.size != 0 {
			m = append(m, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(c.size)))
		}
		msg, err := dhcpv4.New(m...)
		if err != nil {
			t.Fatal(err)
		}
		f := testResponder(t, long).answer(frame4(msg, testGuest.MAC))
		got, _ := reply4(t, f)
		if len(f)-ethernetHeader > c.limit || (got.DomainSearch() != nil) != c.search || len(got.DNS()) != 1 {
			t.Errorf("a client that takes %d got %d bytes, search %v", c.size, len(f)-ethernetHeader, got.DomainSearch())
		}
	}
}

// VM-04: DHCPv6 hands out the claimed address; each message as RFC 8415 has it.
func TestDHCPv6(t *testing.T) {
	r := testResponder(t)
	solicit, err := dhcpv6.NewSolicit(testGuest.MAC)
	if err != nil {
		t.Fatal(err)
	}
	advertise := reply6(t, r.answer(solicitation6(solicit)))
	if advertise.Type() != dhcpv6.MessageTypeAdvertise {
		t.Fatalf("got %s", advertise.Type())
	}
	req, err := dhcpv6.NewRequestFromAdvertise(advertise)
	if err != nil {
		t.Fatal(err)
	}
	reply := reply6(t, r.answer(solicitation6(req)))
	ia := reply.Options.OneIANA()
	if reply.Type() != dhcpv6.MessageTypeReply || ia == nil || ia.Options.OneAddress() == nil {
		t.Fatalf("got %s", reply.Summary())
	}
	if a := ia.Options.OneAddress(); a.IPv6Addr.String() != "fd00:10:245::7" || a.ValidLifetime != lease || ia.T1 != renewal {
		t.Errorf("got %s", ia.LongString(0))
	}
	if dns := reply.Options.DNS(); len(dns) != 1 || dns[0].String() != "fd00:10:96::a" {
		t.Errorf("DNS %v", dns)
	}
	if s := reply.Options.DomainSearchList(); s == nil || !slices.Equal(s.Labels, testGuest.Search) {
		t.Errorf("search %v", s)
	}

	change := func(kind dhcpv6.MessageType, without dhcpv6.OptionCode, addr string) *dhcpv6.Message {
		m := &dhcpv6.Message{MessageType: kind, TransactionID: req.TransactionID}
		for _, o := range req.Options.Options {
			if o.Code() != without && o.Code() != dhcpv6.OptionIANA {
				m.AddOption(o)
			}
		}
		if addr != "" {
			m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{1}, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
				&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(addr), PreferredLifetime: 1, ValidLifetime: 1},
			}}})
		}
		return m
	}
	stranger := change(dhcpv6.MessageTypeRequest, dhcpv6.OptionServerID, "fd00:10:245::7")
	stranger.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: testGuest.MAC}))
	two := change(dhcpv6.MessageTypeRenew, 0, "fd00:10:245::7")
	two.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{2}})
	two.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{3}})
	for _, c := range []struct {
		name string
		msg  *dhcpv6.Message
		want string // what the answer says, by words of its own summary; "": no answer
	}{
		{"renew", change(dhcpv6.MessageTypeRenew, 0, "fd00:10:245::7"), "fd00:10:245::7"},
		{"rebind", change(dhcpv6.MessageTypeRebind, dhcpv6.OptionServerID, "fd00:10:245::7"), "fd00:10:245::7"},
		{"renew another's address", change(dhcpv6.MessageTypeRenew, 0, "fd00:10:245::8"), "fd00:10:245::8 PreferredLifetime=0s ValidLifetime=0s"},
		{"confirm", change(dhcpv6.MessageTypeConfirm, dhcpv6.OptionServerID, "fd00:10:245::7"), "Success"},
		{"confirm another's address", change(dhcpv6.MessageTypeConfirm, dhcpv6.OptionServerID, "fd00:10:245::8"), "NotOnLink"},
		{"release", change(dhcpv6.MessageTypeRelease, 0, "fd00:10:245::7"), "Success"},
		{"decline", change(dhcpv6.MessageTypeDecline, 0, "fd00:10:245::7"), "Success"},
		{"information only", change(dhcpv6.MessageTypeInformationRequest, dhcpv6.OptionServerID, ""), "fd00:10:96::a"},
		{"two associations and a prefix", two, "NoPrefixAvail"},
		{"to another server", stranger, ""},
		{"request to no server", change(dhcpv6.MessageTypeRequest, dhcpv6.OptionServerID, "fd00:10:245::7"), ""},
		{"from nobody", change(dhcpv6.MessageTypeRenew, dhcpv6.OptionClientID, "fd00:10:245::7"), ""},
		{"a server's message", change(dhcpv6.MessageTypeAdvertise, 0, "fd00:10:245::7"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := r.answer(solicitation6(c.msg))
			if c.want == "" {
				if f != nil {
					t.Fatalf("answered %x", f)
				}
				return
			}
			if got := reply6(t, f).Summary(); !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s in it", got, c.want)
			}
		})
	}
}

// VM-04: the advertisement says "managed", names the router and no on-link prefix;
// a prefix for SLAAC only where the claimed address is the MAC's own.
func TestRouterAdvertisement(t *testing.T) {
	for _, c := range []struct {
		name string
		addr string
		slak bool
	}{{"claimed", "fd00:10:245::7", false}, {"EUI-64", "fd00:10:245::70:6fff:fe00:7", true}} {
		t.Run(c.name, func(t *testing.T) {
			r := testResponder(t, func(g *Guest) { g.Addrs = []netip.Addr{netip.MustParseAddr(c.addr)} })
			f := r.answer(routerSolicit())
			if f == nil {
				t.Fatal("no answer to a solicitation")
			}
			m, err := ndp.ParseMessage(f[54:])
			if err != nil {
				t.Fatal(err)
			}
			ra, ok := m.(*ndp.RouterAdvertisement)
			if !ok || !ra.ManagedConfiguration || !ra.OtherConfiguration || ra.RouterLifetime != routerLifetime || f[21] != 255 {
				t.Fatalf("got %+v", m)
			}
			var mtu, dns, search, prefix bool
			for _, o := range ra.Options {
				switch o := o.(type) {
				case *ndp.MTU:
					mtu = o.MTU == 1450
				case *ndp.RecursiveDNSServer:
					dns = slices.Equal(o.Servers, []netip.Addr{netip.MustParseAddr("fd00:10:96::a")})
				case *ndp.DNSSearchList:
					search = slices.Equal(o.DomainNames, testGuest.Search)
				case *ndp.PrefixInformation:
					prefix = o.AutonomousAddressConfiguration && o.Prefix == netip.MustParseAddr("fd00:10:245::")
					if o.OnLink {
						t.Error("a prefix is on-link")
					}
				}
			}
			if !mtu || !dns || !search || prefix != c.slak {
				t.Errorf("mtu %v, dns %v, search %v, prefix %v: %+v", mtu, dns, search, prefix, ra.Options)
			}
		})
	}
}

// A guest of one family is served in that family only.
func TestOneFamily(t *testing.T) {
	discover, _ := dhcpv4.NewDiscovery(testGuest.MAC)
	solicit, _ := dhcpv6.NewSolicit(testGuest.MAC)
	v4 := testResponder(t, func(g *Guest) { g.Addrs = g.Addrs[:1] })
	v6 := testResponder(t, func(g *Guest) { g.Addrs = g.Addrs[1:] })
	if v4.answer(frame4(discover, testGuest.MAC)) == nil || v4.answer(solicitation6(solicit)) != nil || v4.answer(routerSolicit()) != nil {
		t.Error("an IPv4 guest")
	}
	if v6.answer(frame4(discover, testGuest.MAC)) != nil || v6.answer(solicitation6(solicit)) == nil || v6.answer(routerSolicit()) == nil {
		t.Error("an IPv6 guest")
	}
}

// The kernel's filter passes what the parser takes, and little else.
func TestFilters(t *testing.T) {
	discover, _ := dhcpv4.NewDiscovery(testGuest.MAC)
	solicit, _ := dhcpv6.NewSolicit(testGuest.MAC)
	web := udp4(GatewayMAC, Gateway4, []byte("x")) // to port 68
	fragment := frame4(discover, testGuest.MAC)
	fragment[21] = 1
	for _, c := range []struct {
		name   string
		filter func() ([]bpf.RawInstruction, error)
		frame  []byte
		pass   bool
	}{
		{"DHCPv4", filter4, frame4(discover, testGuest.MAC), true},
		{"another port", filter4, web, false},
		{"a fragment", filter4, fragment, false},
		{"DHCPv6", filter6, solicitation6(solicit), true},
		{"router solicitation", filter6, routerSolicit(), true},
		{"another ICMPv6", filter6, frame6(unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 0, 0, 0, 0}), false},
		{"another UDP", filter6, udp6(GatewayMAC, clientLL, []byte("x")), false},
		{"TCP", filter6, frame6(unix.IPPROTO_TCP, make([]byte, 20)), false},
	} {
		raw, err := c.filter()
		if err != nil {
			t.Fatal(err)
		}
		program, _ := bpf.Disassemble(raw)
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		n, err := vm.Run(c.frame)
		if err != nil || (n > 0) != c.pass {
			t.Errorf("%s: passes %d bytes, %v", c.name, n, err)
		}
	}
}

// A guest sends what it likes: nothing may break.
func FuzzAnswer(f *testing.F) {
	discover, _ := dhcpv4.NewDiscovery(testGuest.MAC)
	solicit, _ := dhcpv6.NewSolicit(testGuest.MAC)
	relay, _ := dhcpv6.EncapsulateRelay(solicit, dhcpv6.MessageTypeRelayForward, net.IPv6loopback, net.IPv6loopback)
	for _, seed := range [][]byte{
		nil, frame4(discover, testGuest.MAC), solicitation6(solicit), routerSolicit(),
		frame6(unix.IPPROTO_UDP, udpTo(clientLL, allNodes, dhcp6Client, dhcp6Server, relay.ToBytes())),
		frame4(discover, testGuest.MAC)[:60], solicitation6(solicit)[:70],
	} {
		f.Add(seed)
	}
	r := testResponder(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) >= 12 {
			frame = slices.Clone(frame)
			copy(frame[6:12], testGuest.MAC)
		}
		if a := r.answer(frame); a != nil && len(a) < 42 {
			t.Errorf("a short answer: %x", a)
		}
	})
}

// The DHCP messages alone, so that the fuzzer need not find lengths and ports.
func FuzzMessages(f *testing.F) {
	discover, _ := dhcpv4.NewDiscovery(testGuest.MAC)
	inform, _ := dhcpv4.NewInform(testGuest.MAC, net.IPv4(10, 245, 0, 7))
	solicit, _ := dhcpv6.NewSolicit(testGuest.MAC)
	f.Add(false, discover.ToBytes())
	f.Add(false, inform.ToBytes())
	f.Add(true, solicit.ToBytes())
	r := testResponder(f)
	f.Fuzz(func(_ *testing.T, ipv6 bool, payload []byte) {
		if ipv6 {
			r.answer6(question{src: clientLL, payload: payload})
		} else {
			r.answer4(question{src: netip.IPv4Unspecified(), payload: payload})
		}
	})
}
