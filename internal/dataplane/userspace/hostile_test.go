package userspace

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/test/journal"
	"portico.dev/portico/test/rig"
)

// mute accepts and never answers.
func mute(t *testing.T) netip.AddrPort {
	t.Helper()
	return serve(t, func(net.Conn) { <-t.Context().Done() })
}

// full is where connections are neither accepted nor refused: its backlog has all it holds.
func full(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := sender(name)
	for range 10 {
		c, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the backlog has room for all")
	return at
}

// A client that waits for a backend doesn't keep the end waiting.
func TestCloseWhileConnecting(t *testing.T) {
	usual := dialTime
	t.Cleanup(func() { dialTime = usual }) // when the backend is closed, whose goroutines look
	dialTime = time.Minute                 // a busy machine may need seconds to come to the end
	b, f := directOnLoopback(t, full(t), full(t))
	dialLoopback(t, netip.AddrPortFrom(f.Addr, f.Port))
	until(t, "the client is taken", func() error {
		b.room.mu.Lock()
		defer b.room.mu.Unlock()
		if b.room.used == 0 {
			return errors.New("it isn't")
		}
		return nil
	})
	began := time.Now()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= dialTime {
		t.Errorf("the end took %s", took)
	}
	if n := b.total.failed.Load(); n != 0 {
		t.Errorf("%d backends are said not to accept", n)
	}
}

// DP-13: a frontend goes while a datagram for it comes, which waits for its proxy's lock: who
// closes the socket waits for the datagram, and must not have the lock.
func TestCloseWhileReceiving(t *testing.T) {
	b, f := directOnLoopback(t)
	p, err := b.openUDP(&front{frontend: f, turn: &turn{}}, netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp", p.conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	over := make(chan struct{})
	p.mu.Lock() // both wait for it, the end first
	go func() { p.close(); over <- struct{}{} }()
	until(t, "the end waits", func() error { return locked("userspace.(*udpProxy).close") })
	go func() { p.serve(); over <- struct{}{} }()
	if _, err := client.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	until(t, "the datagram waits", func() error { return locked("userspace.(*udpProxy).flow") })
	p.mu.Unlock()
	for range 2 {
		select {
		case <-over:
		case <-time.After(3 * rig.Patience):
			t.Fatal("the end and the datagram wait for each other")
		}
	}
	if len(b.proxies) != 0 {
		t.Errorf("proxies are left: %v", b.proxies)
	}
}

// DP-15: frontends and proxies are nobody's clients.
func TestAnswersItself(t *testing.T) {
	b, f := directOnLoopback(t)
	dns := frontend("dns", routing.ExternalIP, loopback, catalog.UDP, 53)
	node := frontend("dns", routing.NodePort, netip.IPv4Unspecified(), catalog.UDP, 30053)
	if err := b.Sync(t.Context(), dataplane.State{NodeAddresses: nodeAddrs, Frontends: []*routing.Frontend{f, dns, node}}); err != nil {
		t.Fatal(err)
	}
	p, err := b.openUDP(&front{frontend: dns, turn: &turn{}}, netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	proxy := addrPort(p.conn.LocalAddr())
	for sender, want := range map[netip.AddrPort]bool{
		netip.AddrPortFrom(loopback, 53): true, netip.AddrPortFrom(nodeAddrs[0], 30053): true, proxy: true,
		netip.AddrPortFrom(loopback, f.Port): false, netip.AddrPortFrom(loopback, 30053): false, netip.AddrPortFrom(nodeAddrs[0], 53): false,
	} {
		if is := b.answersItself(sender); is != want {
			t.Errorf("%s: %t, want %t", sender, is, want)
		}
	}
	if p.flow(proxy) != nil {
		t.Error("a proxy is its own client")
	}
	p.close()
	if b.answersItself(proxy) {
		t.Error("a port is a proxy's when that is closed")
	}
}

// locked reports an error unless a goroutine in a function waits for a lock.
func locked(function string) error {
	all := make([]byte, 1<<20)
	for _, one := range strings.Split(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(one, "sync.(*Mutex).Lock") && strings.Contains(one, function) {
			return nil
		}
	}
	return errors.New("it doesn't")
}

// echo sends back all that connections send.
func echo(t testing.TB) netip.AddrPort {
	t.Helper()
	return serve(t, func(c net.Conn) { io.Copy(c, c) }) //nolint:errcheck // the client ends it
}

// talk sends a word and wants it back.
func talk(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(3 * rig.Patience)); err != nil {
		return err
	}
	word := []byte("hello")
	if _, err := c.Write(word); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, word); err != nil || string(word) != "hello" {
		return fmt.Errorf("%q came back: %w", word, err)
	}
	return nil
}

// A backend that accepts and never answers, a client that never reads, and one backend that
// nobody reaches hold nobody else up.
func TestOthersGoOn(t *testing.T) {
	good := echo(t)
	b, f := directOnLoopback(t, good)
	silent := frontend("silent", routing.ExternalIP, loopback, catalog.TCP, freePort(t))
	silent.Sets = &routing.Sets{Cluster: backendsAt(mute(t))}
	gone := frontend("gone", routing.ExternalIP, loopback, catalog.TCP, freePort(t))
	closed := netip.AddrPortFrom(loopback, freePort(t))
	gone.Sets = &routing.Sets{Cluster: backendsAt(closed, good)}
	if err := b.Sync(t.Context(), dataplane.State{Frontends: []*routing.Frontend{f, silent, gone}}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c := dialLoopback(t, netip.AddrPortFrom(loopback, silent.Port))
		if _, err := c.Write([]byte("is anybody there?")); err != nil {
			t.Fatal(err)
		}
	}
	// It sends all that the sockets hold, and reads nothing of the echo.
	stuffed := dialLoopback(t, netip.AddrPortFrom(loopback, f.Port))
	if err := stuffed.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for _, err := stuffed.Write(make([]byte, 1<<20)); err == nil; _, err = stuffed.Write(make([]byte, 1<<20)) {
	}
	for range 20 {
		for _, at := range []uint16{f.Port, gone.Port} {
			c := dialLoopback(t, netip.AddrPortFrom(loopback, at))
			if err := talk(c); err != nil {
				t.Errorf("port %d: %v", at, err)
			}
			c.Close()
		}
	}
	if n := b.total.failed.Load(); n != 10 {
		t.Errorf("%d connections met the backend that is gone first, want every other one of 20", n)
	}
}

// Five thousand endpoints in one Service each get their share, and a change among them is
// quick.
func TestManyEndpoints(t *testing.T) {
	const many = 5000
	var all []netip.AddrPort
	for i := range many {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}), 80))
	}
	b, f := directOnLoopback(t, all...)
	front := b.fronts[f.Key]
	count := map[netip.AddrPort]int{}
	for range 3 * many {
		count[b.choices(front, loopback)[0]]++
	}
	for _, a := range all {
		if count[a] != 3 {
			t.Fatalf("%s was met %d times, want 3", a, count[a])
		}
	}
	best := time.Hour
	for range 5 { // a busy machine delays any of them
		gone := all[0]
		all = all[1:]
		next := *f
		next.Sets = &routing.Sets{Cluster: backendsAt(all...)}
		began := time.Now()
		if err := b.Apply(t.Context(), routing.Change{Set: []*routing.Frontend{&next}}); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
		if slices.Contains(b.choices(front, loopback), gone) {
			t.Errorf("%s is gone and is met", gone)
		}
	}
	if best > time.Second {
		t.Errorf("a change of one endpoint of %d took %s", many, best)
	}
}

// What takes all descriptors is said once; connections that are there keep theirs, the rest of
// the process has some left, and new clients come in as soon as some are free.
func TestDescriptorsRunOut(t *testing.T) {
	l := newLAN(t)
	log := &journal.Log{}
	const limit = 400
	o := startOrdinary(t, l.node, func(c *exec.Cmd) {
		c.Env = append(c.Env, fmt.Sprintf("%s=%d", limitEnv, limit))
		c.Stderr = log
	})
	web := frontend("web", routing.NodePort, netip.IPv4Unspecified(), catalog.TCP, 30080)
	state := dataplane.State{NodeAddresses: nodeAddrs, Frontends: []*routing.Frontend{web}}
	if unserved := o.sync(state); len(unserved) > 0 {
		t.Fatal(unserved)
	}
	at := netip.AddrPortFrom(nodeAddrs[0], 30080)
	first, err := l.client.Dial("tcp", netip.AddrPort{}, at, rig.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := rig.Exchange(first, rig.Patience); err != nil {
		t.Fatal(err)
	}
	var flood []net.Conn
	for range limit { // the listener's backlog takes those that wait
		c, err := l.client.Dial("tcp", netip.AddrPort{}, at, rig.Patience)
		if err != nil {
			t.Fatal(err)
		}
		flood = append(flood, c)
	}
	until(t, "what is the matter is said", func() error {
		if !strings.Contains(log.String(), "New clients of Services aren't served just now") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
	for range 3 {
		if err := talk(first); err != nil {
			t.Errorf("a connection of before: %v", err)
		}
	}
	// Half of what isn't for connections.
	for i := range uint16(limit / spareFiles / 2) {
		state.Frontends = append(state.Frontends, frontend("more", routing.NodePort, netip.IPv4Unspecified(), catalog.TCP, 30100+i))
	}
	if unserved := o.sync(state); len(unserved) > 0 {
		t.Errorf("%d ports of %d more have no descriptor, one is %s", len(unserved), limit/spareFiles/2, unserved[0])
	}
	if last := flood[limit-1]; last.SetReadDeadline(time.Now().Add(100*time.Millisecond)) != nil {
		t.Error("can't set a deadline")
	} else if n, err := last.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the last connection of the flood was served: nothing ran out (%v)", err)
	}
	for _, c := range flood {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	until(t, "after the flood", func() error {
		_, err := l.client.Ask("tcp", at)
		return err
	})
	if n := strings.Count(log.String(), "just now"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// UDP flows, which strangers can make up, leave room for TCP.
func TestFlowsLeaveRoom(t *testing.T) {
	r := &room{files: 80}
	for r.tryAdd() {
	}
	if r.used != 70 || !r.enough() {
		t.Errorf("flows have %d descriptors of 80", r.used)
	}
	for r.enough() {
		r.add(filesEach)
	}
	if r.used != 80 || r.tryAdd() {
		t.Errorf("TCP has taken up to %d of 80", r.used)
	}
}
