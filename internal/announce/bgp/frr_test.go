package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/test/rig"
)

// detectMultiplier has BFD take a path for lost after 2.5 s of silence at 50 ms: a busy
// machine lets a process wait longer than the usual three intervals.
const detectMultiplier = 50

// BFD has the multiplier above, and the hold time is long enough to tell the two apart.
const frrConfig = `
frr defaults traditional
bfd
 profile fast
  receive-interval 50
  transmit-interval 50
  detect-multiplier 50
router bgp 64513
 bgp router-id 192.0.2.254
 no bgp ebgp-requires-policy
 bgp bestpath as-path multipath-relax
 bgp graceful-restart
 neighbor nodes peer-group
 neighbor nodes remote-as 64512
 neighbor nodes timers 10 30
 neighbor nodes passive
 NEIGHBORS
 address-family ipv4 unicast
  maximum-paths 8
 exit-address-family
 address-family ipv6 unicast
  neighbor nodes activate
  maximum-paths 8
 exit-address-family
`

// neighbors makes the first nodes' addresses FRR's neighbours, with more lines for each.
func neighbors(count int, more ...string) string {
	var b strings.Builder
	for i := 1; i <= count; i++ {
		fmt.Fprintf(&b, "neighbor 192.0.2.%d peer-group nodes\n", i)
		for _, m := range more {
			fmt.Fprintf(&b, " neighbor 192.0.2.%d %s\n", i, m)
		}
	}
	return strings.Replace(frrConfig, "NEIGHBORS", b.String(), 1)
}

func ms(d int) *uint32 { u := uint32(d); return &u }

func hasHops(r *router, prefix string, want ...string) func() error {
	return func() error {
		got := r.hops(prefix)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s has next hops %v, not %v", prefix, got, want)
		}
		return nil
	}
}

// LB-04, LB-05: three nodes, one router with FRR: ECMP in its kernel for both families over
// IPv4 sessions, communities, aggregation, Local, changes without a reset, and BFD for nodes
// that freeze or die.
func TestThreeNodesWithFRR(t *testing.T) {
	rig.Need(t)
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	r.frr(neighbors(3, "bfd", "bfd profile fast"))
	w := base(metallb.BGPPeerSpec{
		MyASN: 64512, ASN: 64513, Address: "192.0.2.254", DualStackAddressFamily: true, BFDProfile: "fast",
		HoldTime: &metav1.Duration{Duration: 30 * time.Second}, ConnectTime: &metav1.Duration{Duration: 2 * time.Second},
	}, at("web", "198.51.100.1"), at("web6", "2001:db8:1::1"), balanced{Name: "here", Address: at("", "198.51.100.2").Address, Local: true, Ready: []string{"b"}})
	fast := &metallb.BFDProfile{Spec: metallb.BFDProfileSpec{ReceiveInterval: ms(50), TransmitInterval: ms(50), DetectMultiplier: ms(detectMultiplier)}}
	fast.Name = "fast"
	w.Config.BFDProfiles = []*metallb.BFDProfile{fast}
	w.Config.BGPAdvertisements[0].Spec.Communities = []string{"64512:7", "large:64512:1:2"}
	var nodes []*node
	for i, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, newNode(t, lan, name, i+1, w))
	}
	for _, n := range nodes {
		n.established()
	}
	eventually(t, "ECMP for IPv4", hasHops(r, "198.51.100.1/32", "192.0.2.1", "192.0.2.2", "192.0.2.3"))
	eventually(t, "ECMP for IPv6 over IPv4 sessions", hasHops(r, "2001:db8:1::1/128", "2001:db8::1", "2001:db8::2", "2001:db8::3"))
	eventually(t, "Local from the node with an endpoint", hasHops(r, "198.51.100.2/32", "192.0.2.2"))
	if err := contains(r.vtysh("show bgp ipv4 unicast 198.51.100.1/32"), "Community: 64512:7", "Large Community: 64512:1:2"); err != nil {
		t.Error(err)
	}

	since := nodes[0].state().Peers[0].Since
	for _, n := range nodes {
		n.world.Config.BGPAdvertisements[0].Spec.Communities = []string{"64512:8"}
		n.world.Services = append(n.world.Services, at("more", "198.51.100.3"))
		n.tell()
	}
	eventually(t, "a new Service", hasHops(r, "198.51.100.3/32", "192.0.2.1", "192.0.2.2", "192.0.2.3"))
	eventually(t, "other communities", func() error {
		out := r.vtysh("show bgp ipv4 unicast 198.51.100.1/32")
		if strings.Contains(out, "64512:7") || strings.Contains(out, "Large") {
			return fmt.Errorf("old ones in\n%s", out)
		}
		return contains(out, "Community: 64512:8")
	})
	state := nodes[0].state()
	if !state.Peers[0].Since.Equal(since) {
		t.Error("a change of paths reset the session")
	}
	if got := fmt.Sprint(state.Peers[0].Announced, state.Peers[0].Families); got != "[198.51.100.1/32 198.51.100.3/32 2001:db8:1::1/128] [IPv4 IPv6]" {
		t.Errorf("the state says %s", got)
	}
	for _, n := range nodes {
		length := int32(24)
		n.world.Config.BGPAdvertisements[0].Spec.AggregationLength = &length
		n.tell()
	}
	eventually(t, "the aggregate", hasHops(r, "198.51.100.0/24", "192.0.2.1", "192.0.2.2", "192.0.2.3"))
	eventually(t, "no single address beside it", hasHops(r, "198.51.100.1/32"))

	for _, n := range nodes {
		eventually(t, "BFD is up", func() error {
			if p := n.state().Peers[0]; p.BFD != "Up" {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
	eventually(t, "BFD is up at the router", func() error {
		if out := r.vtysh("show bfd peers brief"); strings.Count(out, " up") != 3 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	lose := func(what string, n *node, signal syscall.Signal, left ...string) {
		start := time.Now()
		if err := n.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		for len(r.hops("198.51.100.0/24")) != len(left) && time.Since(start) < patience {
			time.Sleep(time.Millisecond) // a pause between questions
		}
		took := time.Since(start)
		t.Logf("routes withdrawn %v after the node was %s", took.Round(time.Millisecond), what)
		if took > 15*time.Second { // 3 s on a quiet machine; without BFD it is the hold time, 30 s
			t.Errorf("%s: it took %v", what, took)
		}
		if err := hasHops(r, "198.51.100.0/24", left...)(); err != nil {
			t.Error(err)
		}
	}
	lose("frozen", nodes[2], syscall.SIGSTOP, "192.0.2.1", "192.0.2.2")
	if err := nodes[2].cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is back", hasHops(r, "198.51.100.0/24", "192.0.2.1", "192.0.2.2", "192.0.2.3"))
	lose("killed", nodes[1], syscall.SIGKILL, "192.0.2.1", "192.0.2.3")
}

// LB-04: a password that differs is said clearly; the right one, in a Secret, is taken
// without another change.
func TestPasswordWithFRR(t *testing.T) {
	rig.Need(t)
	t.Parallel()
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	r.frr(neighbors(1, "password right"))
	w := base(metallb.BGPPeerSpec{
		MyASN: 64512, ASN: 64513, Address: "192.0.2.254", ConnectTime: &metav1.Duration{Duration: 2 * time.Second},
		PasswordSecret: metallb.SecretReference{Name: "md5"},
	}, at("web", "198.51.100.1"))
	n := newNode(t, lan, "a", 1, w)
	eventually(t, "the missing Secret is said", func() error {
		return contains(strings.Join(n.state().Problems, "\n"), "BGPPeer router: spec.passwordSecret: Secret metallb-system/md5: not found")
	})
	n.world.Secrets = map[string]string{"md5": "wrong"}
	n.tell()
	eventually(t, "the difference is said", func() error {
		if p := n.state().Peers; len(p) == 0 || p[0].Status == Established || !strings.Contains(p[0].Why, "the password differs") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	n.world.Secrets["md5"] = "right"
	n.tell()
	n.established()
	eventually(t, "the route", hasHops(r, "198.51.100.1/32", "192.0.2.1"))
}

// LB-04: routes outlive a restart of the agent where graceful restart is agreed; a stop
// that is meant to last withdraws them.
func TestGracefulRestartWithFRR(t *testing.T) {
	rig.Need(t)
	t.Parallel()
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	r.frr(neighbors(1, "bfd", "bfd profile fast"))
	w := base(metallb.BGPPeerSpec{
		MyASN: 64512, ASN: 64513, Address: "192.0.2.254", ConnectTime: &metav1.Duration{Duration: 2 * time.Second},
		EnableGracefulRestart: true, DualStackAddressFamily: true, BFDProfile: "fast",
	}, at("web", "198.51.100.1"), at("web6", "2001:db8:1::1"))
	fast := &metallb.BFDProfile{Spec: metallb.BFDProfileSpec{ReceiveInterval: ms(50), TransmitInterval: ms(50), DetectMultiplier: ms(detectMultiplier)}}
	fast.Name = "fast"
	w.Config.BFDProfiles = []*metallb.BFDProfile{fast}
	n := newNode(t, lan, "a", 1, w)
	routes := func() error {
		return cmp.Or(hasHops(r, "198.51.100.1/32", "192.0.2.1")(), hasHops(r, "2001:db8:1::1/128", "2001:db8::1")())
	}
	eventually(t, "the routes", routes)
	eventually(t, "BFD is up", func() error {
		if p := n.state().Peers[0]; p.BFD != "Up" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	for _, end := range []struct {
		what string
		do   func()
	}{{"terminated", n.terminate}, {"killed", func() { n.end() }}} {
		end.do()
		lost := make(chan error, 1)
		again := make(chan struct{})
		go func() { // looks all the time
			var err error
			for {
				select {
				case <-again:
					lost <- err
					return
				default:
					err = cmp.Or(err, routes())
					time.Sleep(5 * time.Millisecond) // a pause between questions
				}
			}
		}()
		eventually(t, "the router noticed", func() error {
			if out := r.vtysh("show bgp neighbor 192.0.2.1"); strings.Contains(out, "BGP state = Established") {
				return errors.New(out)
			}
			// BFD's loss comes after the end of TCP. It mustn't end the next session.
			if out := r.vtysh("show bfd peers brief"); strings.Contains(out, " up") {
				return errors.New(out)
			}
			return nil
		})
		n.start()
		n.established()
		eventually(t, "the router got all again", func() error {
			if out := r.vtysh("show bgp ipv4 unicast 198.51.100.1/32"); strings.Contains(out, "stale") {
				return errors.New(out)
			}
			return routes()
		})
		close(again)
		if err := <-lost; err != nil {
			t.Errorf("while the agent was %s and started: %v", end.what, err)
		}
	}
	start := time.Now()
	told := n.told()
	n.withdraw()
	eventually(t, "no routes", func() error {
		return cmp.Or(hasHops(r, "198.51.100.1/32")(), hasHops(r, "2001:db8:1::1/128")())
	})
	t.Logf("routes withdrawn %v after the planned stop began", time.Since(start).Round(time.Millisecond))
	n.tells(append(told,
		`Normal nodeWithdrawn Service web: no longer announcing from node "a" with protocol "bgp": 198.51.100.1/32 to router: the node leaves`,
		`Normal nodeWithdrawn Service web6: no longer announcing from node "a" with protocol "bgp": 2001:db8:1::1/128 to router: the node leaves`)...)
}
