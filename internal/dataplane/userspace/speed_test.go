package userspace

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// sink takes all that connections send.
func sink(t testing.TB) netip.AddrPort {
	t.Helper()
	return serve(t, func(c net.Conn) {
		buf := make([]byte, 256<<10)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
}

// serve answers connections to a port of loopback until the test is over.
func serve(t testing.TB, answer func(net.Conn)) netip.AddrPort {
	t.Helper()
	l := listenLoopback(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer(c)
			}()
		}
	}()
	return addrPort(l.Addr())
}

func listenLoopback(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := listenTCP(netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// freePort is one of loopback at which nobody listens.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l := listenLoopback(t)
	defer l.Close()
	return addrPort(l.Addr()).Port()
}

// directOnLoopback serves one Service on loopback with no privilege, and gives where.
func directOnLoopback(t testing.TB, backends ...netip.AddrPort) (*Backend, *routing.Frontend) {
	t.Helper()
	b, err := New(Config{Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	f := frontend("web", routing.ExternalIP, loopback, catalog.TCP, freePort(t))
	f.Sets = &routing.Sets{Cluster: backendsAt(backends...)}
	if err := b.Sync(context.Background(), dataplane.State{Frontends: []*routing.Frontend{f}}); err != nil {
		t.Fatal(err)
	}
	if faults := b.Unserved(); len(faults) > 0 {
		t.Fatal(faults)
	}
	return b, f
}

// plainProxy does nothing but carry: the floor that ours is compared with.
func plainProxy(t testing.TB, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	l := listenLoopback(t)
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				up, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
				if err != nil {
					c.Close()
					return
				}
				var group sync.WaitGroup
				group.Go(func() { io.Copy(c, up); c.CloseWrite() }) //nolint:errcheck // the ends tell
				io.Copy(up, c)                                      //nolint:errcheck // the ends tell
				up.CloseWrite()
				group.Wait()
				c.Close()
				up.Close()
			}()
		}
	}()
	return addrPort(l.Addr())
}

func dialLoopback(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// How fast one connection is, ours beside a plain proxy's.
func BenchmarkStream(b *testing.B) {
	to := sink(b)
	_, f := directOnLoopback(b, to)
	for name, at := range map[string]netip.AddrPort{"plain": plainProxy(b, to), "ours": netip.AddrPortFrom(f.Addr, f.Port), "direct": to} {
		b.Run(name, func(b *testing.B) {
			c := dialLoopback(b, at)
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What short connections cost: connect, ask, answer, close.
func BenchmarkConnections(b *testing.B) {
	to := echo(b)
	_, f := directOnLoopback(b, to)
	for name, at := range map[string]netip.AddrPort{"plain": plainProxy(b, to), "ours": netip.AddrPortFrom(f.Addr, f.Port), "direct": to} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 64)
			for b.Loop() {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
				if err != nil {
					b.Fatal(err)
				}
				_ = c.SetLinger(0)
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

// Idle connections have neither a goroutine nor a pipe, and go on when something comes.
func TestIdleConnections(t *testing.T) {
	b, f := directOnLoopback(t, echo(t))
	before := runtime.NumGoroutine()
	const many = 200
	var all []*net.TCPConn
	say := func(c *net.TCPConn) {
		t.Helper()
		buf := []byte("hello")
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	for range many {
		c := dialLoopback(t, netip.AddrPortFrom(f.Addr, f.Port))
		say(c)
		all = append(all, c)
	}
	waiting := func() int {
		b.idle.mu.Lock()
		defer b.idle.mu.Unlock()
		return len(b.idle.waiting)
	}
	for end := time.Now().Add(10 * linger); waiting() < 2*many; time.Sleep(linger / 100) {
		if time.Now().After(end) {
			t.Fatalf("%d directions are watched of %d", waiting(), 2*many)
		}
	}
	if n := runtime.NumGoroutine(); n >= before+2*many {
		t.Errorf("%d goroutines, %d before: idle connections of ours have some", n, before)
	}
	for _, c := range all {
		say(c)
	}
	// Both ways an end comes through, and a reset.
	if err := all[0].CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after our end: %v", err)
	}
	for _, c := range all {
		_ = c.SetLinger(0)
		c.Close()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		left := len(b.sessions)
		b.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("sessions are left")
		}
	}
	if n := waiting(); n != 0 {
		t.Errorf("%d directions of connections that are over are watched", n)
	}
	b.room.mu.Lock()
	defer b.room.mu.Unlock()
	if b.room.used != 0 {
		t.Errorf("%d descriptors are counted for nothing", b.room.used)
	}
}
