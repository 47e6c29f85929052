package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/test/rig"
)

// crowdOfSources gives forged sources outside (RFC 2544's range, which nobody uses), n
// of them, each with all its ports in turn.
func crowdOfSources(i, n int, v6 bool) netip.AddrPort {
	k, port := i%n, uint16(1024+i/n%64000)
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 5, 14: byte(k >> 8), 15: byte(k)}), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(k >> 8), byte(k)}), port)
}

// realProcessor ends a test of what others notice of a flood where the processor is emulated.
func realProcessor(t *testing.T) {
	t.Helper()
	if emulated() {
		t.Skip("an emulated processor can't bear a flood")
	}
}

// emulated says that the processor is: it can bear some hundred packets in a second.
func emulated() bool { return os.Getenv("PORTICO_TEST_EMULATED") != "" }

// flood sends packets of all numbers from zero, for as long as it isn't stopped.
type flood struct {
	sent  atomic.Int64
	quit  atomic.Bool
	group sync.WaitGroup
}

func (h *hostile) flood(packet func(i int) []byte) *flood {
	f, together := &flood{}, 100
	if emulated() {
		together = 1
	}
	f.group.Go(func() {
		defer f.quit.Store(true)
		for i := 0; !f.quit.Load(); i++ {
			err := h.toNode.Send(packet(i))
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // the link's queue is full
				h.t.Error(err)
				return
			}
			f.sent.Add(1)
			// As much as the processor can bear: where it can't, links lose everybody's
			// packets before the rules see them.
			if err != nil || i%together == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	return f
}

func (f *flood) stop() {
	f.quit.Store(true)
	f.group.Wait()
}

// reach waits until n packets were sent.
func (f *flood) reach(n int) {
	for f.sent.Load() < int64(n) && !f.quit.Load() {
		time.Sleep(time.Millisecond)
	}
}

// latencies has every kind of client make n connections to the bystander in each
// family, and gives how long they took, sorted. None may fail.
func (h *hostile) latencies(n int) (took []time.Duration) {
	h.t.Helper()
	for range n {
		for _, v6 := range []bool{false, true} {
			for from, to := range map[*rig.Host]netip.AddrPort{
				h.outside: h.bystander.ip.port(v6, 80), h.node.Host: h.bystander.ip.port(v6, 80), h.c: nodeAddr.port(v6, h.bystander.nodePort),
			} {
				start := time.Now()
				if _, err := from.Ask("tcp", to); err != nil {
					h.t.Errorf("%s to the bystander: %v", from.Name, err)
				}
				took = append(took, time.Since(start))
			}
		}
	}
	slices.Sort(took)
	return took
}

// bounded compares latencies in a flood with those before. A second is where a client
// sends its SYN again: what takes less has lost nothing.
func (h *hostile) bounded(what string, before, in []time.Duration) {
	h.t.Helper()
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	text := fmt.Sprintf("%s: bystander median %v, p99 %v, worst %v; before %v, %v, %v", what,
		us(in[len(in)/2]), us(p99(in)), us(in[len(in)-1]), us(before[len(before)/2]), us(p99(before)), us(before[len(before)-1]))
	h.t.Log(text)
	if p99(in) > time.Second {
		h.t.Error(text)
	}
}

func us(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// conntrackStats adds up the kernel's own counts over its processors.
func (h *hostile) conntrackStats() (sum conntrack.Stats, entries int) {
	h.t.Helper()
	err := h.node.Do(func() error {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		all, err := c.Stats()
		if err != nil {
			return err
		}
		for _, s := range all {
			sum.Drop += s.Drop
			sum.EarlyDrop += s.EarlyDrop
			sum.InsertFailed += s.InsertFailed
			sum.Invalid += s.Invalid
		}
		global, err := c.StatsGlobal()
		entries = int(global.Entries)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return sum, entries
}

func (h *hostile) number(file string) (n int) {
	h.t.Helper()
	err := h.node.Do(func() error {
		raw, err := os.ReadFile(file)
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// A SYN flood from 1,000 forged sources against one Service, with a backend here and
// one on the other node, for which each connection takes a port of this node: another
// Service keeps its service. The victim's backends answer by SYN cookies, and count it.
func TestSYNFlood(t *testing.T) {
	if emulated() && os.Getenv("PORTICO_LONG") == "" {
		t.Skip("long where the processor is emulated; PORTICO_LONG=1 runs it")
	}
	h := newHostile(t)
	remote := onOther(guestC, 8081)
	h.serve(h.c, remote)
	h.victim.endpoints = append(h.victim.endpoints, remote)
	h.update(h.victim.view())
	open := h.established(h.victim)
	before := h.latencies(30)
	const sources = 1000
	f := h.flood(func(i int) []byte {
		v6 := i%2 == 1
		door := h.victim.doors(v6)[i/2%2]
		from := crowdOfSources(i/2, sources, v6)
		return rig.IP{From: from.Addr(), To: door.Addr(), Proto: rig.TCP, Payload: rig.TCPSegment(from, door, rig.SYN, uint32(i), 0, nil)}.Bytes()
	})
	defer f.stop()
	f.reach(10_000)
	in := h.latencies(100)
	f.reach(25_000)
	f.stop()
	h.bounded(fmt.Sprintf("SYN flood, %d packets", f.sent.Load()), before, in)
	for _, c := range open {
		if err := rig.Echo(c, rig.Patience); err != nil {
			t.Errorf("an open connection of the victim broke: %v", err)
		}
	}
	cookies, err := h.a.Statistic("/proc/net/netstat", "TcpExt", "SyncookiesSent")
	if technique == userspaceTechnique {
		cookies, err = h.node.Statistic("/proc/net/netstat", "TcpExt", "SyncookiesSent") // the proxy is there
	}
	if err != nil || cookies == 0 && !emulated() { // that is too slow to fill the backend's queue
		t.Errorf("the victim's backend sent %d SYN cookies: %v", cookies, err)
	}
	stats, entries := h.conntrackStats()
	t.Logf("%d conntrack entries, %d cookies by the backend here, %d entries could not be inserted, %d packets dropped, %d entries dropped early", entries, cookies, stats.InsertFailed, stats.Drop, stats.EarlyDrop)
	each(t, func(t *testing.T, network string, v6 bool) {
		if _, err := h.outside.Ask(network, h.victim.ip.port(v6, 80)); err != nil {
			t.Errorf("the victim after the flood: %v", err)
		}
	})
	h.unharmed("a SYN flood")
	h.verify()
}

// DP-13: while datagrams of many clients arrive a Service goes and comes back, and the
// program ends and starts again: each time it does, and then all are served.
func TestChangesInFlood(t *testing.T) {
	realProcessor(t)
	h := newHostile(t)
	f := h.flood(func(i int) []byte {
		v6 := i%2 == 1
		return datagram(crowdOfSources(i/2, 200, v6), h.victim.ip.port(v6, 80), []byte("?")).Bytes()
	})
	defer f.stop()
	f.reach(100)
	for range 5 {
		h.update(h.victim.gone())
		h.update(h.victim.view())
		f.reach(int(f.sent.Load()) + 100)
		h.stop()
		h.start()
		h.replace(h.victim.view(), h.bystander.view())
	}
	f.stop()
	for _, v6 := range []bool{false, true} {
		for deadline := time.Now().Add(10 * time.Second); ; { // what came before is served first, or is too much
			_, err := h.outside.Ask("udp", h.victim.ip.port(v6, 80))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	h.unharmed("changes in a flood")
	h.verify()
}

// Connections to a backend on another node take a port of this node each: a flood that
// takes all of one backend's is counted, and no other Service notices.
func TestPortsExhausted(t *testing.T) {
	realProcessor(t)
	if os.Getenv("PORTICO_LONG") == "" {
		t.Skip("long; PORTICO_LONG=1 runs it")
	}
	h := newHostile(t)
	remote := onOther(guestC, 8081)
	h.serve(h.c, remote)
	h.update(h.victim.with(remote).view())
	before := h.latencies(30)
	f := h.flood(func(i int) []byte {
		from, door := crowdOfSources(i, 1000, false), h.victim.ip.port(false, 80)
		return rig.IP{From: from.Addr(), To: door.Addr(), Proto: rig.TCP, Payload: rig.TCPSegment(from, door, rig.SYN, uint32(i), 0, nil)}.Bytes()
	})
	defer f.stop()
	const ports = 1<<16 - 1024
	f.reach(ports + ports/10)
	in := h.latencies(100)
	f.stop()
	h.bounded("ports exhausted", before, in)
	stats, entries := h.conntrackStats()
	t.Logf("%d entries, %d could not be inserted, %d packets dropped", entries, stats.InsertFailed, stats.Drop)
	if stats.InsertFailed == 0 || stats.Drop == 0 {
		t.Error("the kernel counts no connection for which there was no port")
	}
	h.unharmed("all ports towards a backend")
}

// A UDP flood from ever new sources fills conntrack's table. The kernel makes room for
// new connections by forgetting flows that were never answered for long, and counts
// that; established connections stay, other Services keep their service, and changes
// still get to the kernel.
func TestConntrackFull(t *testing.T) {
	realProcessor(t)
	if os.Getenv("PORTICO_LONG") == "" {
		t.Skip("long; PORTICO_LONG=1 runs it")
	}
	h := newHostile(t)
	// The limit can't be lowered for one namespace: it is the machine's.
	limit := h.number("/proc/sys/net/netfilter/nf_conntrack_max")
	if limit > 1<<20 {
		t.Skipf("this machine remembers %d connections, too many to fill", limit)
	}
	second := onNode(guestB, 8081)
	h.serve(h.b, second)
	open := h.established(h.bystander)
	before := h.latencies(30)
	f := h.flood(func(i int) []byte {
		from, door := crowdOfSources(i, 1<<16, false), h.victim.ip.port(false, 80)
		return datagram(from, door, nil).Bytes()
	})
	defer f.stop()
	start := time.Now()
	f.reach(limit)
	filled := time.Since(start)
	in := h.latencies(100)
	changed := h.moves(second)
	f.reach(limit + limit/8)
	stats, entries := h.conntrackStats()
	f.stop()
	h.bounded(fmt.Sprintf("conntrack full after %v", ms(filled)), before, in)
	t.Logf("%d entries of %d at most, %d dropped early, %d packets dropped; a change took %v", entries, limit, stats.EarlyDrop, stats.Drop, ms(changed))
	if entries > limit+limit/100 || stats.EarlyDrop == 0 {
		t.Errorf("%d entries, and %d dropped early; want at most %d, and the kernel to count", entries, stats.EarlyDrop, limit)
	}
	for _, c := range open {
		if err := rig.Echo(c, rig.Patience); err != nil {
			t.Errorf("an established connection broke: %v", err)
		}
	}
	h.unharmed("a full conntrack table")
}

// moves gives the bystander another backend and tells when new connections meet it.
// Old flows, which Plane ends afterwards, aren't waited for.
func (h *hostile) moves(to endpoint) time.Duration {
	h.t.Helper()
	start := time.Now()
	h.plane.Update([]catalog.View{h.bystander.with(to).view()})
	for {
		a, err := h.outside.Ask("tcp", h.bystander.ip.port(false, 80))
		took := time.Since(start)
		switch {
		case err == nil && a.Server == to.addr(false):
			return took
		case err != nil || took > 10*time.Second:
			h.t.Fatalf("%v after a change %s answers, want %s: %v", took, a.Server, to.addr(false), err)
		}
	}
}

// First fragments without the rest fill what the node keeps for datagrams in pieces.
// The limit holds and is counted; all that comes whole is served, and fragments are
// again when the others' time is over.
func TestFragmentFlood(t *testing.T) {
	realProcessor(t)
	h := newHostile(t)
	for _, s := range []string{"net/ipv4/ipfrag_time", "net/netfilter/nf_conntrack_frag6_timeout"} {
		if err := h.node.Sysctl(s, "1"); err != nil { // seconds, of 30 and 60
			t.Fatal(err)
		}
	}
	before := h.latencies(30)
	f := h.flood(func(i int) []byte {
		v6 := i%2 == 1
		p := datagram(crowdOfSources(i, 1000, v6), h.victim.ip.port(v6, 80), make([]byte, 1200))
		p.Payload, p.Fragment, p.More, p.ID = p.Payload[:1200], true, true, uint16(i)
		return p.Bytes()
	})
	defer f.stop()
	f.reach(8000) // of some 2 KiB: more than the 4 MiB of each family
	in := h.latencies(100)
	f.reach(16000)
	memory := h.fragmentMemory()
	f.stop()
	h.bounded(fmt.Sprintf("fragment flood, %d packets", f.sent.Load()), before, in)
	limit := h.number("/proc/sys/net/ipv4/ipfrag_high_thresh")
	failed, err := h.node.Statistic("/proc/net/snmp", "Ip", "ReasmFails")
	t.Logf("%d bytes of fragments, at most %d; %d failures counted", memory, limit, failed)
	if err != nil || memory > limit+limit/10 || failed == 0 {
		t.Errorf("%d bytes of fragments, %d failures counted: %v; want at most %d, and the kernel to count", memory, failed, err, limit)
	}
	for _, v6 := range []bool{false, true} {
		c, err := h.outside.Dial("udp", netip.AddrPort{}, h.bystander.ip.port(v6, 80), rig.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for deadline := time.Now().Add(10 * time.Second); ; {
			if _, err := c.Write(make([]byte, 4000)); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) //nolint:errcheck // Read tells
			if _, err = c.Read(make([]byte, 200)); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("IPv6 %v: fragments aren't served again: %v", v6, err)
			}
		}
	}
}

// fragmentMemory gives what IPv4 fragments take on the node, as the kernel counts.
func (h *hostile) fragmentMemory() (n int) {
	h.t.Helper()
	err := h.node.Do(func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/sockstat")
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(string(raw), "FRAG: inuse ")
		_, err = fmt.Sscanf(after, "%d memory %d", new(int), &n)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}
