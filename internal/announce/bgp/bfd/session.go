package bfd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	// Source ports, RFC 5881 section 4.
	firstPort, lastPort = 49152, 65535
	portTries           = 16
	// control is the traffic class of routing, CS6 (RFC 4594): the last to be dropped.
	control = 0xc0
	hops    = 255
	// farewells are the packets that tell the router of an end: some may be lost.
	farewells = 3
)

// Config says what to watch, and how.
type Config struct {
	Peer       netip.Addr
	Local      netip.Addr // source address; invalid: the kernel chooses
	Device     string     // to bind to, a VRF's
	MultiHop   bool
	Receive    time.Duration
	Transmit   time.Duration
	Multiplier uint8
	Passive    bool
	MinimumTTL uint8 // over several hops
}

// Session watches one path.
type Session struct {
	config  Config
	server  *Server
	socket  *socket
	changed func(State, Diagnostic)
	packets chan packet
	stop    chan struct{}
	stopped chan struct{}

	// run alone uses these.
	machine machine
	conn    *net.UDPConn // nil until there was a route
	buffer  []byte
}

// Close ends the session and tells the router that this is meant. It waits for the last
// call of whoever watches.
func (s *Session) Close() {
	s.server.forget(s)
	close(s.stop)
	<-s.stopped
}

// run keeps the session until Close.
func (s *Session) run() {
	defer close(s.stopped)
	defer func() {
		if s.conn != nil {
			s.conn.Close()
		}
	}()
	next := time.Now() // when to send
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(s.wake(next)))
		changed := false
		select {
		case <-s.stop:
			s.farewell()
			return
		case p := <-s.packets:
			changed = s.machine.take(p, time.Now())
			if p.Poll {
				s.send(true)
			}
		case <-timer.C:
			changed = s.machine.silence(time.Now())
		}
		now, pace := time.Now(), s.machine.pace()
		if changed {
			next = now // at once, so that both sides agree soon
		} else if soon := now.Add(pace); soon.Before(next) {
			next = soon // the router takes more than it did
		}
		if pace > 0 && !now.Before(next) {
			s.send(false)
			next = now.Add(s.jitter(pace))
		}
		if changed {
			s.changed(s.machine.state, s.machine.diagnostic)
		}
	}
}

// wake gives the time when there is something to do.
func (s *Session) wake(next time.Time) time.Time {
	if s.machine.pace() == 0 {
		next = time.Now().Add(slow)
	}
	if d := s.machine.deadline; !d.IsZero() && d.Before(next) {
		return d
	}
	return next
}

// jitter shortens by up to a quarter, and where one lost packet ends the session by at
// least a tenth (RFC 5880, section 6.8.7).
func (s *Session) jitter(pace time.Duration) time.Duration {
	most := 1.0
	if s.config.Multiplier == 1 {
		most = 0.9
	}
	return time.Duration(float64(pace) * (0.75 + rand.Float64()*(most-0.75)))
}

func (s *Session) farewell() {
	s.machine.state, s.machine.diagnostic, s.machine.polling = AdminDown, administrative, false
	for range farewells {
		s.send(false)
	}
}

// send sends a packet. What can't be sent is as good as lost: the router will notice.
func (s *Session) send(final bool) {
	if s.conn == nil {
		var err error
		if s.conn, err = s.dial(); err != nil {
			s.server.log.Debug("BFD can't send", "peer", s.config.Peer, "err", err)
			return
		}
	}
	p := s.machine.packet(final)
	s.buffer = p.append(s.buffer[:0])
	if _, err := s.conn.Write(s.buffer); err != nil {
		s.server.log.Debug("BFD can't send", "peer", s.config.Peer, "err", err)
	}
}

// dial makes the socket to send with.
func (s *Session) dial() (*net.UDPConn, error) {
	var err error
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.config.Local, uint16(port)))
		d := net.Dialer{LocalAddr: local, Control: bind(s.config.Device)}
		var conn net.Conn
		conn, err = d.DialContext(context.Background(), "udp", netip.AddrPortFrom(s.config.Peer, s.socket.key.port()).String())
		if err != nil {
			continue
		}
		udp := conn.(*net.UDPConn)
		if s.config.Peer.Is6() {
			c := ipv6.NewConn(udp)
			err = firstError(c.SetHopLimit(hops), c.SetTrafficClass(control))
		} else {
			c := ipv4.NewConn(udp)
			err = firstError(c.SetTTL(hops), c.SetTOS(control))
		}
		if err == nil {
			return udp, nil
		}
		udp.Close()
	}
	return nil, fmt.Errorf("BFD to %s: %w", s.config.Peer, err)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// bind has sockets bound to a device; "" binds to none.
func bind(device string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if device == "" {
			return nil
		}
		if problem := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); problem != nil {
			return problem
		}
		if err != nil {
			return fmt.Errorf("bind to %s: %w", device, err)
		}
		return nil
	}
}
