package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/test/rig"
)

// DP-05: node ports answer on the node-port addresses, follow their change, and
// never answer on loopback.
func TestNodeAddresses(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	w.replace(web.with(e).view())
	second := pair("192.0.2.77", "2001:db8::77")
	for _, p := range []netip.Prefix{netip.PrefixFrom(second.v4, 24), netip.PrefixFrom(second.v6, 64)} {
		if err := w.node.AddAddr(rig.Uplink, p); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(at dual) func(t *testing.T, network string, v6 bool) {
		return func(t *testing.T, network string, v6 bool) {
			if _, err := w.outside.Ask(network, at.port(v6, 30080)); err != nil {
				t.Error(err)
			}
		}
	}
	silentAt := func(at dual) func(t *testing.T, network string, v6 bool) {
		return func(t *testing.T, network string, v6 bool) {
			// At its own pace: the neighbour may have to be found first.
			if _, err := refused(w.outside, network, at.port(v6, 30080)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: want a refusal by the node's own stack, got %v", at.of(v6), err)
			}
		}
	}
	each(t, answers(nodeAddr))
	each(t, silentAt(second))
	w.plane.SetNodeAddresses([]netip.Addr{second.v4, second.v6, addr("127.0.0.1"), addr("::1")})
	w.settled()
	w.verify()
	each(t, answers(second))
	each(t, silentAt(nodeAddr))
	each(t, func(t *testing.T, network string, v6 bool) {
		if ok, err := refused(w.node.Host, network, pair("127.0.0.1", "::1").port(v6, 30080)); !ok {
			t.Errorf("node port on loopback: want a refusal, got %v", err)
		}
	})
}

// clients keeps asking from the outside until stop, and counts failures.
func clients(w *world, to ...netip.AddrPort) (stop func() (asked int, failures []error)) {
	quit := make(chan struct{})
	var group sync.WaitGroup
	var mu sync.Mutex
	asked, failures := 0, []error(nil)
	for _, at := range to {
		group.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				_, err := w.outside.Ask("tcp", at)
				mu.Lock()
				asked++
				if err != nil {
					failures = append(failures, err)
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []error) {
		close(quit)
		group.Wait()
		return asked, failures
	}
}

// DP-18: the program ends and starts again, with the same state, with another,
// and with rubbish in its table: no connection fails, established ones go on, and
// what is stale or foreign in our table is gone. Rubbish, and that equal rules stay the
// same, are looked at where nftables' tables are the program's; each other technique's
// package does so for its own.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	old := service{name: "old", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 80, nodePort: 30081}
	w.replace(web.with(x, y).view(), old.with(x).view())

	established, err := w.outside.Dial("tcp", netip.AddrPort{}, nodeAddr.port(false, 30080), rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer established.Close()
	if _, err := rig.Exchange(established, rig.Patience); err != nil {
		t.Fatal(err)
	}
	stop := clients(w, nodeAddr.port(false, 30080), web.ip.port(true, 80))
	if technique == nftablesTechnique {
		before := w.handles()
		w.stop()
		w.start()
		w.replace(web.with(x, y).view(), old.with(x).view())
		if after := w.handles(); after != before {
			t.Errorf("the same state made rules anew:\n%s\nbefore:\n%s", after, before)
		}
	}
	for range 3 {
		w.stop()
		if technique == nftablesTechnique {
			w.nft("add element ip portico services { 10.96.0.99 . tcp . 80 : 1:2 }")
			w.nft("add element ip6 portico hairpin { fd00::1 . fd00::2 }")
			w.nft("add rule ip portico serve meta mark 0x4711 counter")
			w.nft("add chain ip portico mine")
		}
		w.start()
		w.replace(web.with(x, y).view())
		w.verify()
		w.update(old.with(x).view())
	}
	asked, failures := stop()
	t.Logf("%d connections", asked)
	for _, err := range failures {
		t.Errorf("failed during restarts: %v", err)
	}
	if err := rig.Echo(established, rig.Patience); err != nil {
		t.Errorf("the established connection broke: %v", err)
	}
	if technique != nftablesTechnique {
		return
	}
	list := w.nft("list table ip portico")
	for _, rubbish := range []string{"10.96.0.99", "0x00004711", "chain mine"} {
		if strings.Contains(list, rubbish) {
			t.Errorf("%q survived the restart", rubbish)
		}
	}
}

// DP-18: an upgrade whose tables have another shape makes them anew: no connection fails, and
// established ones go on.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	x, y := onNode(guestA, 8080), onNode(guestB, 8080)
	w.serve(w.a, x)
	w.serve(w.b, y)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}.with(x, y)
	w.replace(web.view())
	open := w.established(web)
	stop := clients(w, nodeAddr.port(false, 30080), web.ip.port(true, 80))
	for i := range 5 {
		before := w.handles()
		w.stop()
		w.config.AffinityClients = 1000 + i // a set of another size stands for any difference
		w.start()
		w.replace(web.view())
		w.verify()
		if w.handles() == before {
			t.Error("the tables weren't made anew: this shows nothing")
		}
	}
	asked, failures := stop()
	t.Logf("%d connections", asked)
	for _, err := range failures {
		t.Errorf("failed during upgrades: %v", err)
	}
	for _, c := range open {
		if err := rig.Echo(c, rig.Patience); err != nil {
			t.Errorf("the established connection to %s broke: %v", c.RemoteAddr(), err)
		}
	}
}

// DP-18, DP-19: the kernel is read before the Services are known; what somebody changes
// between is seen by the first comparison.
func TestChangedSinceRead(t *testing.T) {
	w := newWorld(t)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80}
	w.replace(web.with(onNode(guestA, 8080)).view())
	state := w.plane.State()
	w.stop()
	err := w.node.Do(func() error {
		config := w.config
		var err error
		if config.Ahead, err = nftables.ReadAhead(); err != nil {
			return err
		}
		config.Ahead.Wait()
		again, err := nftables.New(config)
		if err != nil {
			return err
		}
		defer again.Close()
		w.nft("add element ip portico services { 10.96.0.99 . tcp . 80 : 1:2 }")
		if err := again.Sync(t.Context(), state); err != nil {
			return err
		}
		if differences, err := again.Verify(t.Context(), state); err != nil || len(differences) > 0 {
			return fmt.Errorf("after the first sync: %q, %w", differences, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// nft runs one command of the system's nft on the node.
func (w *world) nft(args string) string {
	w.t.Helper()
	out, err := w.node.Run("nft", strings.Fields(args)...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// handles lists our rules with their handles, which change when a rule is made.
func (w *world) handles() string {
	return w.nft("-a list table ip portico") + w.nft("-a list table ip6 portico")
}
