package announce

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/test/rig"
)

// ear hears all ARP on the client's link, and can ask.
type ear struct {
	w     *world
	conn  *packet.Conn
	own   net.HardwareAddr
	group sync.WaitGroup

	mu      sync.Mutex // guards the following
	said    map[netip.Addr]net.HardwareAddr
	frames  map[string]int // with an address as the sender's, by hardware address
	at      map[netip.Addr]time.Time
	answers map[netip.Addr][]string // hardware addresses that answered since asked
	owners  map[netip.Addr][]string // all that were heard to have an address
}

func (w *world) listen() *ear {
	w.t.Helper()
	e := &ear{w: w, own: w.client.MAC(w.t, rig.Uplink), said: map[netip.Addr]net.HardwareAddr{}, frames: map[string]int{}, at: map[netip.Addr]time.Time{}, answers: map[netip.Addr][]string{}, owners: map[netip.Addr][]string{}}
	if err := w.client.Do(func() error {
		ifi, err := net.InterfaceByName(rig.Uplink)
		if err != nil {
			return err
		}
		e.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	e.group.Go(e.read)
	w.t.Cleanup(func() {
		e.conn.Close()
		e.group.Wait()
	})
	return e
}

func (e *ear) read() {
	b := make([]byte, 2048)
	for {
		n, _, err := e.conn.ReadFrom(b)
		if err != nil {
			return
		}
		if n < 42 {
			continue
		}
		from := netip.AddrFrom4([4]byte(b[28:32]))
		by := net.HardwareAddr(bytes.Clone(b[22:28]))
		e.mu.Lock()
		if from == vip4 {
			e.frames[by.String()]++
		}
		if !slices.Contains(e.owners[from], by.String()) {
			e.owners[from] = append(e.owners[from], by.String())
		}
		if !bytes.Equal(e.said[from], by) {
			e.said[from], e.at[from] = by, time.Now()
		}
		if bytes.Equal(b[:6], e.own) && !slices.Contains(e.answers[from], by.String()) {
			e.answers[from] = append(e.answers[from], by.String())
		}
		e.mu.Unlock()
	}
}

// ask sends a request, waits for an answer where there is to be one, and gives who has
// answered a while later: two must be given the time.
func (e *ear) ask(addr netip.Addr, held bool) []string {
	e.w.t.Helper()
	e.mu.Lock()
	delete(e.answers, addr)
	e.mu.Unlock()
	f := append(bytes.Repeat([]byte{0xff}, 6), e.own...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, e.own...), 192, 0, 2, 9)
	f = append(append(f, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
	if _, err := e.conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
		e.w.t.Fatal(err)
	}
	answers := func() []string {
		e.mu.Lock()
		defer e.mu.Unlock()
		return slices.Clone(e.answers[addr])
	}
	if held {
		e.w.eventually("somebody answers for "+addr.String(), func() bool { return len(answers()) > 0 })
	}
	time.Sleep(150 * time.Millisecond)
	return answers()
}

// owners gives which node was last heard to have an address.
func (e *ear) owner(addr netip.Addr) (node string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, n := range e.w.nodes {
		if bytes.Equal(n.MAC(e.w.t, rig.Uplink), e.said[addr]) {
			return name, e.at[addr]
		}
	}
	return "", time.Time{}
}

// LB-02: one node answers, for addresses that it holds and no others; another host that
// has the address too is noticed.
func TestOnlyTheHolderAnswers(t *testing.T) {
	w := newWorld(t, vip4)
	w.start(names...)
	s := w.send(vip4)
	holder := s.from(names...)
	s.end()
	e := w.listen()
	for range 5 {
		if got := e.ask(vip4, true); len(got) != 1 || got[0] != w.nodes[holder].MAC(t, rig.Uplink).String() {
			t.Errorf("%s has the address; answers came from %v", holder, got)
		}
	}
	if got := e.ask(netip.MustParseAddr("192.0.2.201"), false); len(got) > 0 {
		t.Errorf("an address of nobody is answered by %v", got)
	}
	if strings.Contains(w.said.String(), "Another host answers") {
		t.Error("a conflict where there is none")
	}
	// A host with the same address speaks.
	f := append(bytes.Repeat([]byte{0xff}, 6), e.own...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(append(f, e.own...), vip4.AsSlice()...), 0, 0, 0, 0, 0, 0)
	f = append(f, vip4.AsSlice()...)
	if _, err := e.conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the conflict is said", func() bool {
		return strings.Contains(w.said.String(), "Another host answers") && strings.Contains(w.said.String(), e.own.String())
	})
}

// LB-02: three nodes that start at once, for the first time, and learn the others' addresses
// late: no address is ever two nodes', and soon each has one.
func TestFirstStart(t *testing.T) {
	var vips []netip.Addr
	for i := range 50 {
		vips = append(vips, netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}))
	}
	w := newWorld(t, vips...)
	e := w.listen()
	for i, name := range names {
		w.nodes[name].settings.Late = time.Second + time.Duration(i)*200*time.Millisecond
	}
	begin := time.Now()
	w.start(names...)
	held := map[string]int{}
	w.eventually("all addresses are announced", func() bool {
		clear(held)
		for _, a := range vips {
			n, _ := e.owner(a)
			held[n]++
		}
		return held[""] == 0
	})
	t.Logf("after %v all are announced: %v", time.Since(begin).Round(time.Millisecond), held)
	time.Sleep(500 * time.Millisecond) // in which a second one would have been heard
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range vips {
		if len(e.owners[a]) != 1 {
			t.Errorf("%s was announced by %v", a, e.owners[a])
		}
	}
}

// LB-03: all of a lost node's addresses move soon, however many there are, and no others.
func TestManyAddresses(t *testing.T) {
	const count = 1000
	var vips []netip.Addr
	for i := range count {
		a := [4]byte{192, 0, 2, 0}
		binary.BigEndian.PutUint16(a[2:], uint16(0x0300+i))
		vips = append(vips, netip.AddrFrom4(a))
	}
	w := newWorld(t, vips...)
	e := w.listen()
	w.start(names...)
	before := map[netip.Addr]string{}
	held := map[string]int{}
	w.eventually("all addresses are announced, and those that two took at the start are settled", func() bool {
		was := maps.Clone(before)
		time.Sleep(time.Second)
		clear(held)
		for _, a := range vips {
			before[a], _ = e.owner(a)
			held[before[a]]++
		}
		return held[""] == 0 && maps.Equal(was, before)
	})
	lost := "a"
	w.lan.Unplug(t, w.nodes[lost].Host)
	begin := time.Now()
	w.eventually("all addresses of the lost node are elsewhere", func() bool {
		return !slices.ContainsFunc(vips, func(a netip.Addr) bool { n, _ := e.owner(a); return n == lost })
	})
	last := time.Duration(0)
	for _, a := range vips {
		now, at := e.owner(a)
		if before[a] != lost && now != before[a] {
			t.Errorf("%s moved from %s to %s, and %s was lost", a, before[a], now, lost)
		}
		if before[a] == lost {
			last = max(last, at.Sub(begin))
		}
	}
	t.Logf("held %v; the %d of node %s were announced elsewhere after %v", held, held[lost], lost, last.Round(time.Millisecond))
	if last > generous {
		t.Errorf("it took %v", last)
	}
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not so after 20 s: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// LB-07: two clusters that announce one address on one LAN: both say it, with the other's
// hardware address, and neither fights: what they send of it is bounded.
func TestTwoClustersWithOneAddress(t *testing.T) {
	w := newWorld(t, vip4)
	e := w.listen()
	w.nodes["b"].settings.Key = "the key of quite another cluster"
	for _, name := range []string{"a", "b"} { // each is its cluster's only node
		n := w.nodes[name]
		n.settings.Nodes = slices.DeleteFunc(slices.Clone(n.settings.Nodes), func(o announcing.Node) bool { return o.Name != name })
	}
	begun := time.Now()
	w.start("a", "b")
	macs := map[string]string{"a": w.nodes["a"].MAC(t, rig.Uplink).String(), "b": w.nodes["b"].MAC(t, rig.Uplink).String()}
	conflicts := func(name string) (n int) {
		for line := range strings.Lines(w.said.String()) {
			if strings.Contains(line, "Another host answers") && strings.Contains(line, "node="+name+" ") {
				n++
			}
		}
		return n
	}
	w.eventually("both say it", func() bool { return conflicts("a") > 0 && conflicts("b") > 0 })
	if text := w.said.String(); !strings.Contains(text, "mac="+macs["a"]) || !strings.Contains(text, "mac="+macs["b"]) {
		t.Error("the other's hardware address isn't named")
	}
	const burst, each = 6, 2 // announcements, and frames of one: a request and a reply
	w.eventually("both have sent the burst and defended the address", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.frames[macs["a"]] >= (burst+1)*each && e.frames[macs["b"]] >= (burst+1)*each
	})
	time.Sleep(500 * time.Millisecond)                    // the time in which a fight would go on
	rounds := int(time.Since(begun)/(10*time.Second)) + 1 // of defence, and at most as many of repetition
	for _, name := range []string{"a", "b"} {
		e.mu.Lock()
		frames := e.frames[macs[name]]
		e.mu.Unlock()
		if most := (burst + 2*rounds) * each; frames > most || conflicts(name) > rounds {
			t.Errorf("node %s sent %d frames and said it %d times in %v", name, frames, conflicts(name), time.Since(begun))
		}
	}
}
