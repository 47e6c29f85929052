package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/test/rig"
)

// DP-13, DP-18: flows by all addresses of a Service that is removed end, also where the program
// learns it together with everything else, and nobody's address tells that it was ours.
func TestFlowsOfGoneService(t *testing.T) {
	skipExempt(t) // by its own name, not a part's
	for name, remove := range map[string]func(*world, service){
		"while the program was away": func(w *world, _ service) {
			w.stop()
			w.start()
			w.replace()
		},
		"while the program was replaced by another version": func(w *world, _ service) {
			w.stop()
			w.config.AffinityClients = 1000 // a set of another size: the tables are made anew
			w.start()
			w.replace()
		},
		"beside a new range of cluster IPs": func(w *world, web service) {
			w.plane.SetServiceRanges(append(prefixes("10.120.0.0/16"), serviceRanges...))
			w.update(web.gone())
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			x, y := onNode(guestA, 8080), onNode(guestB, 8080)
			w.serve(w.a, x)
			w.serve(w.b, y)
			web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, external: []dual{externalIP, nodeAddr}, balancer: []dual{balancerIP}}
			w.replace(web.with(x).view())
			var flows []net.Conn
			for _, v6 := range []bool{false, true} {
				for _, to := range []netip.AddrPort{web.ip.port(v6, 80), nodeAddr.port(v6, 30080), externalIP.port(v6, 80), nodeAddr.port(v6, 80), balancerIP.port(v6, 80)} {
					c := w.flow(w.outside, to)
					w.answers(c, x.addr(v6))
					flows = append(flows, c)
				}
			}
			remove(w, web)
			w.update(web.with(y).view())
			for _, c := range flows {
				w.answers(c, y.addr(c.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Is6()))
			}
		})
	}
}

// DP-13, DP-19: the same where somebody else has deleted our tables meanwhile.
func TestFlowsOfGoneTables(t *testing.T) {
	w := newWorld(t)
	x := onNode(guestA, 8080)
	w.serve(w.a, x)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, balancer: []dual{balancerIP}}
	w.replace(web.with(x).view())
	with := w.plane.State()
	w.replace()
	without := w.plane.State()
	w.stop()
	ct := w.conntrack()
	var again *nftables.Backend
	err := w.node.Do(func() (err error) {
		again, err = nftables.New(w.config)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Sync(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	doors := []netip.AddrPort{nodeAddr.port(false, 30080), balancerIP.port(false, 80)}
	for _, to := range doors {
		w.answers(w.flow(w.outside, to), x.addr(false))
	}
	w.nft("flush ruleset")
	if err := errors.Join(again.Sync(t.Context(), without), again.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, to := range doors {
		if stale := entriesBy(t, ct, to, x.addr(false)); len(stale) > 0 {
			t.Errorf("%s: a flow to a backend of no Service goes on", to)
		}
	}
}

// DP-05, DP-18: UDP flows by node ports at an address that is none of theirs any more end, also where
// the program learns it at its start. TCP connections go on, and so does what another door of
// that address leads to.
func TestFlowsOfGoneAddress(t *testing.T) {
	skipExempt(t) // by its own name, not a part's
	for name, leave := range map[string]func(*world, service){
		"at run time": func(w *world, _ service) {
			w.plane.SetNodeAddresses(nil)
			w.settled()
		},
		"while the program was away": func(w *world, web service) {
			w.stop()
			w.start()
			w.plane.SetNodeAddresses(nil)
			w.replace(web.view())
		},
		"while the program was replaced by another version": func(w *world, web service) {
			w.stop()
			w.config.AffinityClients = 1000 // a set of another size: the tables are made anew
			w.start()
			w.plane.SetNodeAddresses(nil)
			w.replace(web.view())
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			x := onNode(guestA, 8080)
			w.serve(w.a, x)
			web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, external: []dual{nodeAddr}}.with(x)
			w.replace(web.view())
			var gone, stay, connections []net.Conn
			for _, v6 := range []bool{false, true} {
				gone = append(gone, w.flow(w.outside, nodeAddr.port(v6, 30080)))
				stay = append(stay, w.flow(w.outside, nodeAddr.port(v6, 80)))
				connections = append(connections, w.connection(w.outside, nodeAddr.port(v6, 30080)))
			}
			all := append(slices.Clone(gone), stay...)
			for i, c := range all {
				w.answers(c, x.addr(i%2 == 1))
			}
			ct := w.conntrack()
			kept := func() (ids []uint32) {
				for _, v6 := range []bool{false, true} {
					ids = append(ids, entries(t, ct, nodeAddr.port(v6, 80))...)
				}
				return ids
			}
			before := kept()
			leave(w, web)
			for _, c := range gone {
				w.refuses(c)
			}
			if now := kept(); !slices.Equal(now, before) {
				t.Errorf("flows by the external IP have the entries %v now, before %v", now, before)
			}
			for i, c := range stay {
				w.answers(c, x.addr(i == 1))
			}
			for _, c := range connections {
				if err := rig.Echo(c, rig.Patience); err != nil {
					t.Errorf("the connection to %s: %v", c.RemoteAddr(), err)
				}
			}
		})
	}
}

// connection opens a TCP connection that has had an answer.
func (w *world) connection(from *rig.Host, to netip.AddrPort) net.Conn {
	w.t.Helper()
	c, err := from.Dial("tcp", netip.AddrPort{}, to, rig.Patience)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	if _, err := rig.Exchange(c, rig.Patience); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// refuses wants a flow to meet nobody. The kernel limits how many errors it sends.
func (w *world) refuses(c net.Conn) {
	w.t.Helper()
	for deadline := time.Now().Add(rig.Patience); ; {
		a, err := rig.Exchange(c, 100*time.Millisecond)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err == nil || time.Now().After(deadline) {
			w.t.Errorf("to %s: want a refusal, %q answered (%v)", c.RemoteAddr(), a.Server, err)
			return
		}
	}
}
