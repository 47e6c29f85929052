package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/test/rig"
)

// crowd gives the outside client more addresses, one for each client that a
// test wants to tell apart.
func (w *world) crowd(n int) (clients []dual) {
	w.t.Helper()
	for i := range n {
		d := pair(fmt.Sprintf("192.0.2.%d", 100+i), fmt.Sprintf("2001:db8::100:%x", i))
		for _, p := range []netip.Prefix{netip.PrefixFrom(d.v4, 24), netip.PrefixFrom(d.v6, 64)} {
			if err := w.outside.AddAddr(rig.Uplink, p); err != nil {
				w.t.Fatal(err)
			}
		}
		clients = append(clients, d)
	}
	return clients
}

// sticky is a Service with affinity, a node port and an external address, and
// eight backends, the last two of them on the other node.
func (w *world) sticky(timeout time.Duration) (service, []endpoint) {
	w.t.Helper()
	var all []endpoint
	for i := range 8 {
		e := onNode(guestA, uint16(8080+i))
		if i >= 6 {
			e = onOther(guestC, e.port)
			w.serve(w.c, e)
		} else {
			w.serve(w.a, e)
		}
		all = append(all, e)
	}
	return service{
		name: "sticky", ip: pair("10.96.0.40", "fd00:10:96::40"), port: 80, nodePort: 30040, affinity: timeout, external: []dual{externalIP},
	}, all
}

// fresh asks from a port that was never used: conntrack leads a UDP packet of
// a known flow to where the flow went before.
func (w *world) fresh(network string, from netip.Addr, to netip.AddrPort) (rig.Answer, error) {
	w.lastPort++
	return w.outside.AskFrom(network, netip.AddrPortFrom(from, w.lastPort), to)
}

func (w *world) freshTimes(network string, from netip.Addr, to netip.AddrPort, n int) (map[netip.AddrPort]int, error) {
	count := map[netip.AddrPort]int{}
	for range n {
		a, err := w.fresh(network, from, to)
		if err != nil {
			return count, err
		}
		count[a.Server]++
	}
	return count, nil
}

// doors are the Service's addresses.
func (s service) doors(v6 bool) []netip.AddrPort {
	out := []netip.AddrPort{s.ip.port(v6, s.port), nodeAddr.port(v6, s.nodePort)}
	for _, d := range [][]dual{s.external, s.balancer} {
		for _, a := range d {
			out = append(out, a.port(v6, s.port))
		}
	}
	return out
}

// homes asks for each client once by each door and gives the backend that all
// doors led to.
func (w *world) homes(t *testing.T, s service, network string, v6 bool, clients []dual) []netip.AddrPort {
	t.Helper()
	out := make([]netip.AddrPort, len(clients))
	for i, c := range clients {
		for _, door := range s.doors(v6) {
			a, err := w.fresh(network, c.of(v6), door)
			if err != nil {
				t.Fatalf("from %s to %s: %v", c.of(v6), door, err)
			}
			if out[i].IsValid() && out[i] != a.Server {
				t.Errorf("client %s met %s, and by %s %s", c.of(v6), out[i], door, a.Server)
			}
			out[i] = a.Server
		}
	}
	return out
}

func different(addrs []netip.AddrPort) int {
	seen := map[netip.AddrPort]bool{}
	for _, a := range addrs {
		seen[a] = true
	}
	return len(seen)
}

// DP-10: a client meets one backend by every door, from everywhere; the choice
// survives a restart and changes elsewhere in the set, and ends when the backend
// leaves.
func TestAffinity(t *testing.T) {
	w := newWorld(t)
	clients := w.crowd(10)
	s, all := w.sticky(3 * time.Hour)
	w.replace(s.with(all...).view())
	w.verify()
	each(t, func(t *testing.T, network string, v6 bool) {
		w.update(s.with(all...).view())
		for _, from := range []*rig.Host{w.b, w.a, w.node.Host} { // a is a backend too
			seen := map[netip.AddrPort]bool{}
			for _, door := range s.doors(v6) {
				if from == w.node.Host && door.Addr() != s.ip.of(v6) {
					continue // the node has another source address there: another client
				}
				for range 4 {
					a, err := from.Ask(network, door)
					if err != nil {
						t.Fatalf("from %s to %s: %v", from.Name, door, err)
					}
					seen[a.Server] = true
				}
			}
			if len(seen) != 1 {
				t.Errorf("from %s: %v answered, want one", from.Name, seen)
			}
		}
		first := w.homes(t, s, network, v6, clients)
		if different(first) < 2 {
			t.Errorf("ten clients all met %s", first[0])
		}
		w.stop()
		w.start()
		w.replace(s.with(all...).view())
		w.verify()
		for i, again := range w.homes(t, s, network, v6, clients) {
			if again != first[i] {
				t.Errorf("client %d met %s, after a restart %s", i, first[i], again)
			}
		}
		var left []endpoint
		for _, e := range all {
			if e.addr(v6) != first[0] {
				left = append(left, e)
			}
		}
		w.update(s.with(left...).view())
		w.verify()
		second := w.homes(t, s, network, v6, clients)
		for i := range clients {
			if first[i] == first[0] && second[i] == first[0] {
				t.Errorf("client %d still meets %s, which is gone", i, first[0])
			}
			if first[i] != first[0] && second[i] != first[i] {
				t.Errorf("client %d met %s, and %s after another backend left", i, first[i], second[i])
			}
		}
		w.update(s.with(all...).view())
		for i, again := range w.homes(t, s, network, v6, clients) {
			if again != second[i] {
				t.Errorf("client %d met %s, and %s after a backend came", i, second[i], again)
			}
		}
	})
}

// DP-10: affinity is switched off and on again live, and nothing of before
// counts after.
func TestAffinitySwitched(t *testing.T) {
	w := newWorld(t)
	s, all := w.sticky(3 * time.Hour)
	s = s.with(all...)
	off := s
	off.affinity = 0
	w.replace(off.view())
	each(t, func(t *testing.T, network string, v6 bool) {
		met := map[netip.AddrPort]bool{}
		for range 5 {
			w.update(off.view())
			w.verify()
			if n, err := w.freshTimes(network, clientAddr.of(v6), s.ip.port(v6, 80), 40); err != nil || len(n) < 2 {
				t.Errorf("without affinity: %v, %v", n, err)
			}
			w.update(s.view())
			w.verify()
			n, err := w.freshTimes(network, clientAddr.of(v6), s.ip.port(v6, 80), 10)
			if err != nil || len(n) != 1 {
				t.Errorf("with affinity: %v, %v", n, err)
			}
			for a := range n {
				met[a] = true
			}
		}
		// 8^-4 by chance. Userspace chooses by a hash of the client; IPVS remembers for a minute.
		if len(met) < 2 && technique != userspaceTechnique && technique != ipvsTechnique {
			t.Errorf("switching off and on led to %v each time", met)
		}
	})
	w.update(s.gone())
	w.verify()
	if technique != nftablesTechnique {
		return
	}
	for _, family := range []string{"ip", "ip6"} {
		for _, set := range []string{"map " + family + " portico session-slots", "map " + family + " portico session-backends", "set " + family + " portico session-live", "map " + family + " portico cluster-sessions"} {
			if l := w.nft("list " + set); strings.Contains(l, "elements") {
				t.Errorf("sessions of nobody: %s", l)
			}
		}
	}
}

// DP-10: the time counts from the last new connection, and then the client's entry
// ends. A new time counts from the next connection on.
func TestAffinityTime(t *testing.T) {
	w := newWorld(t)
	s, all := w.sticky(2 * time.Second)
	s = s.with(all...)
	w.replace(s.view())
	ask := func() netip.AddrPort {
		a, err := w.outside.Ask("tcp", s.ip.port(false, 80))
		if err != nil {
			t.Fatal(err)
		}
		return a.Server
	}
	home := map[netip.AddrPort]bool{}
	begin := time.Now()
	for start, last := begin, begin; time.Since(start) < 3*time.Second; time.Sleep(300 * time.Millisecond) {
		now := time.Now()
		server := ask()
		if time.Since(last) > s.affinity-s.affinity/10 { // the machine stood still, and the client may be forgotten
			if time.Since(begin) > time.Minute {
				t.Fatal("this machine is too busy")
			}
			start = now
			clear(home)
		}
		last = now
		home[server] = true
	}
	if len(home) != 1 {
		t.Errorf("connections in time met %v", home)
	}
	if technique != nftablesTechnique {
		w.forgets(s)
		return
	}
	list := func() string { return w.nft("list map ip portico affinity") }
	for {
		last := time.Now()
		ask()
		l := list()
		if strings.Contains(l, "192.0.2.9 timeout 2s") {
			break
		}
		if time.Since(last) < s.affinity {
			t.Errorf("the client isn't remembered for 2 s: %s", l)
			break
		}
	}
	for start := time.Now(); strings.Contains(list(), "192.0.2.9"); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("the client is remembered after its time: %s", list())
		}
	}
	s.affinity = time.Hour
	w.update(s.view())
	w.verify()
	if _, err := w.outside.Ask("tcp", s.ip.port(false, 80)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(list(), "192.0.2.9 timeout 1h") {
		t.Errorf("the new time doesn't count: %s", list())
	}
}

// forgets waits until the time of clients is over, and looks that they draw anew.
func (w *world) forgets(s service) {
	w.t.Helper()
	clients := w.crowd(10)
	first := w.homes(w.t, s, "tcp", false, clients)
	if technique == userspaceTechnique {
		return // who is forgotten prefers a backend by a hash, the same one
	}
	time.Sleep(s.affinity + s.affinity/2) // asking would put the end off
	if again := w.homes(w.t, s, "tcp", false, clients); slices.Equal(again, first) {
		w.t.Errorf("ten clients met the same backends after their time: %v", first)
	}
}

// DP-10: when the memory for clients is full the others are served without it.
func TestAffinityFull(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.config.AffinityClients = 3
	w.start()
	clients := w.crowd(6)
	s, all := w.sticky(time.Hour)
	s = s.with(all...)
	w.replace(s.view())
	w.verify()
	for _, v6 := range []bool{false, true} {
		stuck := 0
		for _, c := range clients {
			seen := map[netip.AddrPort]bool{}
			for range 12 { // all the same by chance: 8^-11
				a, err := w.fresh("tcp", c.of(v6), s.ip.port(v6, 80))
				if err != nil {
					t.Fatal(err)
				}
				seen[a.Server] = true
			}
			if len(seen) == 1 {
				stuck++
			}
		}
		if stuck != 3 {
			t.Errorf("IPv6 %v: %d clients have a backend of their own, want 3", v6, stuck)
		}
	}
}
