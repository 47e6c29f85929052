package userspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/routing"
)

// dialTime is how long one backend gets to accept a connection. Nothing answers for a
// backend that is gone; the next is tried then.
const dialTime = 2 * time.Second

// session is one TCP connection of a client and ours to its backend.
type session struct {
	client, upstream *net.TCPConn
	backend          netip.AddrPort
}

// cut ends both with a reset: what was lost on the way must not look like an end.
func (s *session) cut() {
	for _, c := range []*net.TCPConn{s.client, s.upstream} {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// accept takes connections until the listener is closed.
func (b *Backend) accept(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors, for one
			b.log.Warn("Can't take a connection", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-b.closing:
			}
			continue
		}
		if !b.begin(func() { b.serveTCP(c) }) {
			_ = c.Close()
			return
		}
	}
}

// acceptPause is for what frees descriptors.
const acceptPause = 50 * time.Millisecond

func (b *Backend) serveTCP(c *net.TCPConn) {
	client := addrPort(c.RemoteAddr()).Addr()
	to, err := originalDestination(c)
	if err != nil {
		b.log.Debug("A connection without a destination", "client", client, "error", err)
		refuse(c)
		return
	}
	f := b.find(to, protocolTCP)
	if f == nil {
		refuse(c)
		return
	}
	s := b.connect(f, c, client)
	if s == nil {
		refuse(c)
		return
	}
	if !b.register(s) {
		s.cut()
		return
	}
	defer b.forget(s)
	relay(s.client, s.upstream)
}

func refuse(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// connect finds a backend that accepts; nil: none does.
func (b *Backend) connect(f *front, c *net.TCPConn, client netip.Addr) *session {
	for _, backend := range f.choices(client, b.origin(client), time.Now()) {
		upstream, err := b.dial("tcp", backend, dialTime)
		if err != nil {
			b.log.Debug("A backend doesn't accept", "frontend", f.get().Key, "backend", backend, "error", err)
			continue
		}
		f.remember(client, backend, time.Now())
		return &session{client: c, upstream: upstream.(*net.TCPConn), backend: backend}
	}
	return nil
}

// dial connects from where the process's sockets are.
func (b *Backend) dial(network string, to netip.AddrPort, timeout time.Duration) (c net.Conn, err error) {
	err = b.enter(func() (err error) {
		d := net.Dialer{Timeout: timeout}
		d.SetMultipathTCP(false)
		c, err = d.DialContext(context.Background(), network, to.String())
		return err
	})
	return c, err
}

// relay carries bytes both ways until both ends have said that they are done. Go copies
// between two TCP sockets by splice(2).
func relay(a, b *net.TCPConn) {
	var group sync.WaitGroup
	pass := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			// One side broke off: so does the other.
			_ = to.SetLinger(0)
			_ = to.Close()
			_ = from.Close()
			return
		}
		_ = to.CloseWrite()
	}
	group.Go(func() { pass(a, b) })
	pass(b, a)
	group.Wait()
	_ = a.Close()
	_ = b.Close()
}

// originalDestination is where the client wanted to go before a rule led it here
// (SO_ORIGINAL_DST of netfilter's nf_conntrack_l3proto).
func originalDestination(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	v6 := addrPort(c.LocalAddr()).Addr().Is6()
	var failed error
	err = raw.Control(func(fd uintptr) {
		if v6 {
			var sa unix.RawSockaddrInet6
			if failed = getsockopt(fd, unix.SOL_IPV6, unix.SO_ORIGINAL_DST, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); failed == nil {
				to = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), ntohs(sa.Port))
			}
			return
		}
		var sa unix.RawSockaddrInet4
		if failed = getsockopt(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); failed == nil {
			to = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), ntohs(sa.Port))
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return to, fmt.Errorf("ask conntrack for the destination: %w", err)
	}
	return to, nil
}

func getsockopt(fd uintptr, level, name int, value unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	if _, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(name), uintptr(value), uintptr(unsafe.Pointer(&n)), 0); errno != 0 {
		return errno
	}
	return nil
}

// ntohs reads a port as sockaddr has it.
func ntohs(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}

// register notes a session that goes on; false when its backend was taken away meanwhile.
func (b *Backend) register(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	of := b.sessions[s.backend]
	if of == nil {
		of = map[*session]bool{}
		b.sessions[s.backend] = of
	}
	of[s] = true
	return true
}

func (b *Backend) forget(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.sessions[s.backend]
	delete(of, s)
	if len(of) == 0 {
		delete(b.sessions, s.backend)
	}
}

// endSessions cuts those whose backend is gone for good: it was terminating, and now no
// Service has its address (DP-16).
func (b *Backend) endSessions(before *routing.Frontend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for one := range backends(before) {
		if !one.Terminating || b.pods[one.Addr()] > 0 {
			continue
		}
		for s := range b.sessions[one.AddrPort] {
			s.cut()
		}
	}
}
