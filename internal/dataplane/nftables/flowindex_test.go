package nftables

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/test/rig"
)

// indexed is a host with an index, and one rule that records each UDP packet to it.
type indexed struct {
	*rig.Host
	t *testing.T
	x *flowIndex
	d door
}

func newIndexed(t *testing.T, most int) *indexed {
	t.Helper()
	h := rig.NewHost(t, "host")
	i := &indexed{Host: h, t: t, d: netip.MustParseAddrPort("127.0.0.1:5000")}
	for _, rule := range [][]string{
		{"add", "table", "ip", "t"},
		{"add", "chain", "ip", "t", "out", "{ type nat hook output priority -100; }"},
		{"add", "rule", "ip", "t", "out", "ct", "state", "new", "udp", "dport", "5000", "log", "group", fmt.Sprint(recordGroup)},
	} {
		if _, err := h.Run("nft", rule...); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Do(func() (err error) {
		i.x, err = newFlowIndex(slog.New(slog.DiscardHandler), most)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.x.close(); err != nil {
			t.Error(err)
		}
	})
	i.relist()
	return i
}

func (i *indexed) relist() {
	i.t.Helper()
	if err := i.x.relist(func(fl *flow) (ours, stale bool) { return fl.door == i.d, false }); err != nil {
		i.t.Fatal(err)
	}
}

// begin sends one datagram from each of some ports.
func (i *indexed) begin(from, n int) {
	i.t.Helper()
	if err := i.Do(func() error {
		for p := range n {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: from + p}, net.UDPAddrFromAddrPort(i.d))
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	}); err != nil {
		i.t.Fatal(err)
	}
}

func (i *indexed) until(what string, f func(FlowCounts) bool) {
	i.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(i.x.stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			i.t.Fatalf("never %s: %+v", what, i.x.stats())
		}
	}
}

// gone is a frontend with no backend that any flow has.
func (i *indexed) gone() map[door]*routing.Frontend {
	return map[door]*routing.Frontend{i.d: {Key: routing.Key{Addr: i.d.Addr(), Protocol: catalog.UDP, Port: i.d.Port()}, Sets: &routing.Sets{}}}
}

// Records come as flows begin; each flow's entry is deleted by its tuple, and others' not.
func TestFlowIndex(t *testing.T) {
	i := newIndexed(t, 1000)
	i.begin(10000, 100)
	i.begin(10000, 100) // the same flows again
	i.until("100 flows", func(c FlowCounts) bool { return c.Known == 100 })
	if err := i.x.end(i.gone()); err != nil {
		t.Fatal(err)
	}
	c := i.x.stats()
	if c.Known != 0 || c.Asked != 100 || c.Deleted != 100 || c.Lists != 1 {
		t.Errorf("after the end: %+v", c)
	}
	i.x.mu.Lock()
	left, err := i.x.ct.listUDP()
	i.x.mu.Unlock()
	if err != nil || len(left) != 0 {
		t.Errorf("%d entries are left, %v", len(left), err)
	}
	// Those that began just now come by the same call, and need no time.
	i.begin(20000, 10)
	if err := i.x.end(i.gone()); err != nil {
		t.Fatal(err)
	}
	if got := i.x.stats().Deleted - c.Deleted; got != 10 {
		t.Errorf("%d flows of this moment were ended, want 10", got)
	}
}

// A flow whose entry comes after its frontend was looked at is ended a moment later:
// a packet was on its way while the rules changed.
func TestFlowSettles(t *testing.T) {
	i := newIndexed(t, 1000)
	const late = 5
	// On a busy machine the second look may come before all of them have: those of another
	// round come in time.
	deadline := time.Now().Add(30 * time.Second)
	for from := 10000; ; from += late {
		if err := i.x.end(i.gone()); err != nil {
			t.Fatal(err)
		}
		before := i.x.stats().Deleted
		i.begin(from, late)
		for wait := time.Now().Add(10 * settling); time.Now().Before(wait); time.Sleep(time.Millisecond) {
			if i.x.stats().Deleted == before+late {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the late flows never ended: %+v", i.x.stats())
		}
	}
}

// What the socket can't hold is noticed; then the kernel sends no more, and the next
// list makes the index whole.
func TestFlowOverrun(t *testing.T) {
	i := newIndexed(t, 100000)
	if err := i.x.records.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	i.x.mu.Lock() // nobody takes records
	i.begin(10000, 50)
	i.x.mu.Unlock()
	i.until("the index was given up", func(c FlowCounts) bool { return !c.Indexed })
	if err := i.x.end(i.gone()); err != errIndexLost {
		t.Errorf("end without an index: %v", err)
	}
	i.relist()
	if c := i.x.stats(); !c.Indexed || c.Known != 50 {
		t.Errorf("after the list: %+v", c)
	}
}

// Flows that have ended are forgotten when there are many: the index doesn't grow.
func TestFlowPrune(t *testing.T) {
	i := newIndexed(t, 100000)
	const n = minPrune + 100
	i.x.mu.Lock()
	for p := range n { // of another time
		i.x.insert(i.d, clientOf(netip.AddrPortFrom(i.d.Addr(), uint16(30000+p))))
	}
	i.x.begun = i.x.begun.Add(-time.Minute)
	i.x.mu.Unlock()
	i.begin(10000, 3)
	i.until("only living flows", func(c FlowCounts) bool { return c.Known == 3 && c.Indexed })
}

// Somebody else has the group: everything works by lists.
func TestFlowGroupTaken(t *testing.T) {
	i := newIndexed(t, 1000)
	var second *flowIndex
	if err := i.Do(func() (err error) {
		second, err = newFlowIndex(slog.New(slog.DiscardHandler), 1000)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer second.close()
	i.begin(10000, 7)
	deleted := 0
	if err := second.relist(func(fl *flow) (ours, stale bool) { deleted++; return true, true }); err != nil || deleted != 7 {
		t.Errorf("listed %d, %v", deleted, err)
	}
	if c := second.stats(); c.Indexed || c.Deleted != 7 {
		t.Errorf("without the group: %+v", c)
	}
	if err := second.end(i.gone()); err != errIndexLost {
		t.Errorf("end without the group: %v", err)
	}
}
