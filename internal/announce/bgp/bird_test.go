package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/test/rig"
)

const birdConfig = `
router id 192.0.2.254;
protocol device { scan time 1; }
protocol kernel { ipv4 { export all; }; }
protocol kernel { ipv6 { export all; }; }
protocol direct { ipv4; ipv6; }
protocol bfd { interface "*" { min rx interval 50 ms; min tx interval 50 ms; multiplier 50; }; }
protocol bgp inside {
  local 2001:db8::254 as 64512;
  neighbor 2001:db8::1 as 64512;
  direct;
  passive;
  bfd graceful;
  hold time 9;
  ipv4 { import all; };
  ipv6 { import all; };
}
protocol bgp outside {
  local 192.0.2.254 as 64513;
  neighbor 192.0.2.2 as 64999;
  passive;
  hold time 9;
  ipv4 { import all; export none; };
}
`

// LB-04: IPv4 over a session with IPv6 addresses, local preference and communities inside an
// AS; outside of it no preference, another own AS number (localASN), and no IPv6 to a
// router that doesn't take it, which is said.
func TestBIRD(t *testing.T) {
	rig.Need(t)
	t.Parallel()
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	r.bird(birdConfig)
	connect := &metav1.Duration{Duration: 2 * time.Second}
	inside := base(metallb.BGPPeerSpec{
		MyASN: 64512, DynamicASN: metallb.InternalASN, Address: "2001:db8::254", DualStackAddressFamily: true, ConnectTime: connect, BFDProfile: "plain",
	}, at("web", "198.51.100.1"), at("web6", "2001:db8:1::1"))
	plain := &metallb.BFDProfile{Spec: metallb.BFDProfileSpec{ReceiveInterval: ms(50), TransmitInterval: ms(50), DetectMultiplier: ms(detectMultiplier)}}
	plain.Name = "plain"
	inside.Config.BFDProfiles = []*metallb.BFDProfile{plain}
	ad := &inside.Config.BGPAdvertisements[0].Spec
	ad.LocalPref, ad.Communities = 234, []string{"64512:7", "large:64512:1:2"}
	outside := base(metallb.BGPPeerSpec{
		MyASN: 64512, LocalASN: 64999, DynamicASN: metallb.ExternalASN, Address: "192.0.2.254", SourceAddress: "192.0.2.2", DualStackAddressFamily: true, ConnectTime: connect,
	}, at("other", "198.51.100.2"), at("other6", "2001:db8:1::2"))
	outside.Config.BGPAdvertisements[0].Spec = *ad
	a, b := newNode(t, lan, "a", 1, inside), newNode(t, lan, "b", 2, outside)
	a.established()
	b.established()
	eventually(t, "IPv4 over IPv6", hasHops(r, "198.51.100.1/32", "192.0.2.1"))
	eventually(t, "IPv6 over IPv6", hasHops(r, "2001:db8:1::1/128", "2001:db8::1"))
	eventually(t, "from outside", hasHops(r, "198.51.100.2/32", "192.0.2.2"))
	for _, route := range []string{"198.51.100.1/32", "2001:db8:1::1/128"} {
		out := r.birdc("show route all for " + route)
		if err := contains(out, "BGP.local_pref: 234", "BGP.community: (64512,7)", "BGP.large_community: (64512, 1, 2)", "BGP.as_path: \n"); err != nil {
			t.Error(err)
		}
	}
	out := r.birdc("show route all for 198.51.100.2/32")
	if err := contains(out, "BGP.as_path: 64999\n", "BGP.local_pref: 100", "BGP.community: (64512,7)"); err != nil {
		t.Error(err)
	}
	p := b.state().Peers[0]
	if got := fmt.Sprint(p.Families, p.Announced, p.Refused, " ", p.RemoteASN, " ", p.RouterID); got != "[IPv4] [198.51.100.2/32] [2001:db8:1::2/128] 64513 192.0.2.254" {
		t.Errorf("the state says %s", got)
	}
	eventually(t, "BFD is up on both sides", func() error {
		if p := a.state().Peers[0]; p.BFD != "Up" {
			return fmt.Errorf("%+v", p)
		}
		return contains(r.birdc("show bfd sessions"), "Up")
	})

	a.world.Services = nil
	a.tell()
	eventually(t, "nothing to announce", hasHops(r, "198.51.100.1/32"))
	if p := a.state().Peers[0]; p.Status != Established {
		t.Errorf("without a Service the session is %+v", p)
	}
}

// LB-04: a router of the own AS isn't spoken to where dynamicASN says external, and a wrong
// AS number is said.
func TestWrongASNWithBIRD(t *testing.T) {
	rig.Need(t)
	t.Parallel()
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	r.bird(strings.ReplaceAll(birdConfig, "as 64513", "as 64999"))
	connect := &metav1.Duration{Duration: 2 * time.Second}
	same := base(metallb.BGPPeerSpec{MyASN: 64999, DynamicASN: metallb.ExternalASN, Address: "192.0.2.254", ConnectTime: connect}, at("web", "198.51.100.1"))
	n := newNode(t, lan, "b", 2, same)
	eventually(t, "the same AS is said", func() error {
		p := n.state().Peers
		if len(p) == 0 || p[0].Status == Established {
			return fmt.Errorf("%+v", p)
		}
		return contains(p[0].Why, "64999", "dynamicASN is external")
	})
	n.world.Config.BGPPeers[0].Spec.DynamicASN = ""
	n.world.Config.BGPPeers[0].Spec.ASN = 64777
	n.tell()
	eventually(t, "the wrong AS is said", func() error {
		p := n.state().Peers
		if len(p) == 0 || p[0].Status == Established {
			return fmt.Errorf("%+v", p)
		}
		return contains(p[0].Why, "bad peer as", "there 64777")
	})
	if got := r.hops("198.51.100.1/32"); len(got) > 0 {
		t.Errorf("the route is there by %v", got)
	}
}

// LB-04, LB-07: a router several hops away, with BFD as RFC 5883 has it; what becomes of the
// session and of the Service's route is told in events.
func TestMultiHopWithBIRD(t *testing.T) {
	rig.Need(t)
	t.Parallel()
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	away := netip.MustParsePrefix("203.0.113.254/32")
	if err := r.AddAddr("lo", away); err != nil {
		t.Fatal(err)
	}
	r.bird(`
router id 192.0.2.254;
protocol device { scan time 1; }
protocol kernel { ipv4 { export all; }; }
protocol bfd { multihop { min rx interval 50 ms; min tx interval 50 ms; multiplier 50; }; }
protocol bgp away {
  local 203.0.113.254 as 64513;
  neighbor 192.0.2.1 as 64512;
  error wait time 1, 2;
  multihop 5;
  passive;
  bfd;
  ipv4 { import all; export none; };
}
protocol direct { ipv4; }
`)
	w := base(metallb.BGPPeerSpec{
		MyASN: 64512, ASN: 64513, Address: "203.0.113.254", EBGPMultiHop: true, BFDProfile: "plain", ConnectTime: &metav1.Duration{Duration: 2 * time.Second},
	}, at("web", "198.51.100.1"))
	plain := &metallb.BFDProfile{Spec: metallb.BFDProfileSpec{ReceiveInterval: ms(50), TransmitInterval: ms(50), DetectMultiplier: ms(detectMultiplier), MinimumTTL: ms(60)}}
	plain.Name = "plain"
	w.Config.BFDProfiles = []*metallb.BFDProfile{plain}
	n := newNode(t, lan, "a", 1, w)
	if err := n.AddRoute(rig.Route{To: away, Link: rig.Uplink, Via: netip.MustParseAddr("192.0.2.254")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the route", hasHops(r, "198.51.100.1/32", "192.0.2.1"))
	eventually(t, "BFD is up", func() error {
		if p := n.state().Peers[0]; p.BFD != "Up" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if err := r.last.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the frozen router's session is ended", func() error {
		p := n.state().Peers[0]
		if p.Status == Established {
			return fmt.Errorf("%+v", p)
		}
		return contains(p.Why, "BFD: the router was silent")
	})
	const begun = `Normal SessionEstablished BGPPeer router: node "a" has a session with 203.0.113.254:179, AS 64513`
	const there = `Normal nodeAssigned Service web: announcing from node "a" with protocol "bgp": 198.51.100.1/32 to router`
	was := []string{
		begun, there,
		`Warning BFDDown BGPPeer router: node "a" lost its session with 203.0.113.254:179: BFD: the router was silent`,
		`Warning nodeWithdrawn Service web: no longer announcing from node "a" with protocol "bgp": 198.51.100.1/32 to router: `,
	}
	n.tells(was...)
	if err := r.last.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	was = append(was, begun, there)
	n.tells(was...)
	n.world.Services = nil
	n.tell()
	eventually(t, "the route is withdrawn", hasHops(r, "198.51.100.1/32"))
	if got := n.told(); len(got) != len(was) { // there is no Service to tell it on
		t.Errorf("it tells\n%s", strings.Join(got, "\n"))
	}
}
