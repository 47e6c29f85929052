package announce

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/test/rig"
)

// generous bounds a gap where the machine may be busy with anything; what is printed is
// what counts.
const generous = 3 * time.Second

// LB-02, LB-03: an address moves when its node is lost in any way, and a node that comes
// back takes nothing.
func TestLoss(t *testing.T) {
	for _, vip := range []netip.Addr{vip4, vip6} {
		w := newWorld(t, vip)
		w.start(names...)
		s := w.send(vip)
		for _, loss := range []struct {
			name string
			lose func(n *node) (comeBack func())
		}{
			{"node dies", func(n *node) func() {
				plug := w.lan.Unplug(t, n.Host)
				n.kill()
				return func() { plug(); w.start(n.settings.Self) }
			}},
			{"link down", func(n *node) func() {
				if err := n.SetLink(rig.Uplink, false); err != nil {
					t.Fatal(err)
				}
				return func() {
					if err := n.SetLink(rig.Uplink, true); err != nil {
						t.Fatal(err)
					}
					// The kernel has flushed the link's IPv6 addresses.
					if err := n.AddAddr(rig.Uplink, netip.PrefixFrom(n.address(true), 64)); err != nil {
						t.Fatal(err)
					}
				}
			}},
			{"partition", func(n *node) func() { return w.lan.Unplug(t, n.Host) }},
			{"agent killed", func(n *node) func() {
				n.kill()
				return func() { w.start(n.settings.Self) }
			}},
			{"agent frozen", func(n *node) func() {
				n.signal(syscall.SIGSTOP)
				return func() { n.signal(syscall.SIGCONT) }
			}},
		} {
			holder := s.from(names...)
			begin := time.Now()
			comeBack := loss.lose(w.nodes[holder])
			next := s.from(others(holder)...)
			t.Logf("%s: %s, %s -> %s: %v without an answer", vip, loss.name, holder, next, s.gap(begin).Round(time.Millisecond))
			if gap := s.gap(begin); gap > generous {
				t.Errorf("%s: %s: %v without an answer", vip, loss.name, gap)
			}
			begin = time.Now()
			comeBack()
			// It is back when greetings were exchanged and a burst has passed.
			time.Sleep(1500 * time.Millisecond)
			if now := s.from(names...); now != next {
				t.Errorf("%s: after %s %s came back and has the address, which %s had", vip, loss.name, now, next)
			}
			t.Logf("%s: back from %s: %v without an answer", vip, loss.name, s.gap(begin).Round(time.Millisecond))
		}
		s.end()
	}
}

func (n *node) address(v6 bool) netip.Addr {
	for _, x := range n.settings.Nodes {
		if x.Name == n.settings.Self {
			for _, a := range x.Addresses {
				if a.Is6() == v6 {
					return a
				}
			}
		}
	}
	return netip.Addr{}
}

// LB-03: an agent that stops hands over first, and no request is lost.
func TestPlanned(t *testing.T) {
	w := newWorld(t, vip4, vip6)
	w.start(names...)
	for _, vip := range []netip.Addr{vip4, vip6} {
		for range 2 {
			s := w.send(vip)
			holder := s.from(names...)
			begin := time.Now()
			w.stop(holder)
			next := s.from(others(holder)...)
			s.end()
			t.Logf("%s: %s stops, %s takes over: %d requests lost, at most %v without an answer", vip, holder, next, s.lost(), s.gap(begin).Round(time.Millisecond))
			if s.lost() > 0 {
				t.Errorf("%s: %d requests were lost", vip, s.lost())
			}
			w.start(holder)
		}
	}
}

// LB-03: an agent that dies and is there again at once keeps its addresses.
func TestQuickRestart(t *testing.T) {
	w := newWorld(t, vip4)
	w.start(names...)
	s := w.send(vip4)
	holder := s.from(names...)
	w.nodes[holder].kill()
	w.start(holder)
	time.Sleep(1500 * time.Millisecond) // who would take it has done so
	s.end()
	now := s.from(names...)
	if strings.Contains(w.said.String(), "counts as lost") {
		t.Logf("the restart took too long for this machine; %s has the address, %s had it", now, holder)
		return
	}
	if now != holder {
		t.Errorf("%s has the address, %s had it", now, holder)
	}
	t.Logf("%s goes on; %d requests lost", now, s.lost())
}

// LB-03: a node that leaves for good hands its addresses over without a lost request, says
// when it is done, and takes none any more while its agent still runs.
func TestLeave(t *testing.T) {
	w := newWorld(t, vip4)
	w.start(names...)
	s := w.send(vip4)
	holder := s.from(names...)
	begin := time.Now()
	w.nodes[holder].signal(syscall.SIGUSR1)
	next := s.from(others(holder)...)
	s.end()
	t.Logf("%s leaves, %s takes over: %d requests lost, at most %v without an answer", holder, next, s.lost(), s.gap(begin).Round(time.Millisecond))
	if s.lost() > 0 {
		t.Errorf("%d requests were lost", s.lost())
	}
	w.eventually("it says that it has left", func() bool {
		return strings.Contains(w.said.String(), `msg="This node has left" node=`+holder+" error=<nil>")
	})
	w.nodes[next].kill()
	s = w.send(vip4)
	if got := s.from(names...); got == holder {
		t.Errorf("%s has left, and has the address again", holder)
	}
	s.end()
	w.stop(holder)
}
