package greet

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket for both families, read and waited for by system calls of the
// one thread that uses it. Only wake is for others.
type socket struct {
	fd, event int
	ipv6      bool // IPv4 addresses are mapped
	port      int
	buffer    [maxSize + 1]byte

	mu     sync.Mutex // guards closed: wake must not write to a number that is somebody else's
	closed bool
}

// receiveBuffer holds what comes while the thread is away for some seconds.
const receiveBuffer = 1 << 20

func openSocket(port int) (*socket, error) {
	s := &socket{ipv6: true, port: port}
	const kind = unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	var err error
	s.fd, err = unix.Socket(unix.AF_INET6, kind, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0), unix.Bind(s.fd, &unix.SockaddrInet6{Port: port}))
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			unix.Close(s.fd) //nolint:errcheck // nothing was written
			err = unix.EAFNOSUPPORT
		}
	}
	if errors.Is(err, unix.EAFNOSUPPORT) { // a host without IPv6
		s.ipv6 = false
		if s.fd, err = unix.Socket(unix.AF_INET, kind, 0); err != nil {
			return nil, err
		}
		err = unix.Bind(s.fd, &unix.SockaddrInet4{Port: port})
	}
	if err != nil {
		unix.Close(s.fd) //nolint:errcheck // nothing was written
		return nil, err
	}
	// More than net.core.rmem_max takes CAP_NET_ADMIN; less is no trouble.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	// Network control (RFC 4594): a full link should drop others first.
	const networkControl = 48 << 2
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_TOS, networkControl)
	if s.ipv6 {
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, networkControl)
	}
	if s.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(s.fd) //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return s, nil
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	unix.Close(s.fd)    //nolint:errcheck // datagrams are gone already
	unix.Close(s.event) //nolint:errcheck // it holds nothing
}

// wake ends a wait.
func (s *socket) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		_, _ = unix.Write(s.event, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// wait returns when something has come, after d, or at a wake.
func (s *socket) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.event), Events: unix.POLLIN}}
	limit := unix.NsecToTimespec(d.Nanoseconds())
	_, err := unix.Ppoll(fds, &limit, nil)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	if fds[1].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(s.event, b[:])
	}
	return nil
}

// receive gives the next datagram, valid until the next call; EAGAIN when there is none.
func (s *socket) receive() ([]byte, error) {
	n, err := unix.Read(s.fd, s.buffer[:])
	if err != nil {
		return nil, err
	}
	return s.buffer[:n], nil
}

func (s *socket) send(d datagram) error {
	if s.ipv6 {
		return unix.Sendto(s.fd, d.text, 0, &unix.SockaddrInet6{Port: s.port, Addr: d.to.As16()})
	}
	if !d.to.Is4() {
		return unix.EAFNOSUPPORT
	}
	return unix.Sendto(s.fd, d.text, 0, &unix.SockaddrInet4{Port: s.port, Addr: d.to.As4()})
}
