package userspace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/routing"
)

// dialTime is how long one backend gets to accept a connection. Nothing answers for a
// backend that is gone; the next is tried then.
var dialTime = 2 * time.Second // longer in a test

// keepIdle is how long a connection is silent before the kernel asks whether the other end
// is still there: a host that vanished must not hold descriptors for good. Go's 15 s would
// be thousands of packets a second with as many idle connections.
const keepIdle = 5 * time.Minute

// socketOptions are for listeners, whose connections inherit them (tcp(7)), and for
// connections to backends.
func socketOptions(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepIdle/time.Second)),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1), // or urgent bytes are lost
		)
	})
	return errors.Join(err, failed)
}

// listenTCP opens a listener; the calling thread is where sockets belong.
func listenTCP(at netip.AddrPort) (*net.TCPListener, error) {
	c := net.ListenConfig{Control: socketOptions, KeepAlive: -1} // Go sets nothing itself
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// accept takes connections until the listener is closed. destination tells where the
// client of one wanted to go.
func (b *Backend) accept(l *net.TCPListener, destination func(*net.TCPConn) (netip.AddrPort, error)) {
	for {
		if !b.room.wait(b.life.Done()) {
			return
		}
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors, for one
			b.room.short(err)
			select {
			case <-time.After(acceptPause):
			case <-b.life.Done():
			}
			continue
		}
		b.room.add(filesEach)
		if !b.begin(func() { b.serveTCP(c, destination) }) {
			_ = c.Close()
			return
		}
	}
}

// acceptPause is for what frees descriptors.
const acceptPause = 50 * time.Millisecond

func (b *Backend) serveTCP(c *net.TCPConn, destination func(*net.TCPConn) (netip.AddrPort, error)) {
	s, err := b.connect(c, destination)
	if err != nil {
		b.log.Debug("A connection is refused", "client", c.RemoteAddr(), "error", err)
		_ = c.SetLinger(0)
		_ = c.Close()
		b.room.add(-filesEach)
		return
	}
	if !b.register(s) {
		s.end(true)
		return
	}
	b.group.Go(s.down.carry) // this goroutine is in the group
	s.up.carry()
}

// connect finds a backend that accepts.
func (b *Backend) connect(c *net.TCPConn, destination func(*net.TCPConn) (netip.AddrPort, error)) (*session, error) {
	to, err := destination(c)
	if err != nil {
		return nil, err
	}
	f := b.find(to, protocolTCP)
	if f == nil {
		return nil, fmt.Errorf("no Service has %s", to)
	}
	client := addrPort(c.RemoteAddr()).Addr()
	m := &f.turn.meter
	for _, backend := range b.choices(f, client) {
		upstream, err := b.dial("tcp", backend)
		switch {
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
			b.room.short(err)
			return nil, err // no backend's fault
		case err != nil && b.life.Err() != nil:
			return nil, err // nor this
		case err != nil:
			m.failed.Add(1)
			b.total.failed.Add(1)
			b.log.Debug("A backend doesn't accept", "frontend", f.get().Key, "backend", backend, "error", err)
			continue
		}
		s, err := newSession(b, c, upstream.(*net.TCPConn), backend, m)
		if err != nil {
			return nil, errors.Join(err, upstream.Close())
		}
		f.remember(client, backend, time.Now())
		m.opened.Add(1)
		b.total.opened.Add(1)
		return s, nil
	}
	return nil, fmt.Errorf("%s serves nobody who comes from %s", f.get().Key, client)
}

// ownPriority is that of the proxy's own packets to backends, which the rules lead nowhere: a
// backend may be its own frontend, as a process of the node at a node's address and the Service's
// port, and the proxy would talk to itself for ever. It is no number that others give:
// nft prints it as the class 706f:1.
const ownPriority = 0x706f0001

// dial connects from where the process's sockets are.
func (b *Backend) dial(network string, to netip.AddrPort) (c net.Conn, err error) {
	err = b.enter(func() (err error) {
		d := net.Dialer{Timeout: dialTime, KeepAlive: -1}
		d.SetMultipathTCP(false)
		d.Control = func(network, address string, raw syscall.RawConn) error {
			var failed, refused error
			if strings.HasPrefix(network, "tcp") {
				failed = socketOptions(network, address, raw)
			}
			if b.rules != nil {
				failed = errors.Join(failed, raw.Control(func(fd uintptr) {
					refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, ownPriority)
				}))
			}
			return errors.Join(failed, refused)
		}
		c, err = d.DialContext(b.life, network, to.String())
		return err
	})
	return c, err
}

// ownAddress is where a client of a listener at a Service's own address wanted to go.
func ownAddress(c *net.TCPConn) (netip.AddrPort, error) { return addrPort(c.LocalAddr()), nil }

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

// register notes a session that goes on; false when everything is being closed.
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

// forget notes the end of a session.
func (b *Backend) forget(s *session) {
	b.room.add(-filesEach)
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
	var lost []*session
	b.mu.Lock()
	for one := range before.Backends() {
		if !one.Terminating || b.pods[one.Addr()] > 0 {
			continue
		}
		lost = slices.AppendSeq(lost, maps.Keys(b.sessions[one.AddrPort]))
	}
	b.mu.Unlock()
	for _, s := range lost {
		s.end(true)
	}
}
