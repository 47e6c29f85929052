package bfd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	oneHop   = 3784 // RFC 5881
	manyHops = 4784 // RFC 5883
)

// Server has the sockets that sessions share.
type Server struct {
	log *slog.Logger

	mu       sync.Mutex // guards the following
	sessions map[uint32]*Session
	sockets  map[socketKey]*socket
}

// socketKey is what tells listening sockets apart.
type socketKey struct {
	v6, multiHop bool
	device       string
}

func (k socketKey) port() uint16 {
	if k.multiHop {
		return manyHops
	}
	return oneHop
}

// socket listens for the sessions of one kind.
type socket struct {
	key      socketKey
	conn     net.PacketConn
	sessions int
	stopped  chan struct{}
}

// NewServer makes one that listens nowhere before it watches something.
func NewServer(log *slog.Logger) *Server {
	return &Server{log: log, sessions: map[uint32]*Session{}, sockets: map[socketKey]*socket{}}
}

// Watch begins a session. Each change of its state is told, one at a time, and nothing is
// sent or heard on the session meanwhile.
func (s *Server) Watch(c Config, changed func(State, Diagnostic)) (*Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	socket, err := s.listen(socketKey{c.Peer.Is6(), c.MultiHop, c.Device})
	if err != nil {
		return nil, err
	}
	socket.sessions++
	mine := rand.Uint32()
	for mine == 0 || s.sessions[mine] != nil {
		mine = rand.Uint32()
	}
	session := &Session{
		config: c, server: s, socket: socket, changed: changed,
		packets: make(chan packet, 4), stop: make(chan struct{}), stopped: make(chan struct{}),
		machine: machine{
			receive: c.Receive, transmit: c.Transmit, multiplier: c.Multiplier, passive: c.Passive,
			state: Down, mine: mine,
		},
	}
	s.sessions[mine] = session
	go session.run() // Close waits for it
	return session, nil
}

// listen finds or opens a socket. mu is held.
func (s *Server) listen(key socketKey) (*socket, error) {
	if l, ok := s.sockets[key]; ok {
		return l, nil
	}
	network, address := "udp4", netip.IPv4Unspecified()
	if key.v6 {
		network, address = "udp6", netip.IPv6Unspecified()
	}
	lc := net.ListenConfig{Control: bind(key.device)}
	conn, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(address, key.port()).String())
	if err != nil {
		return nil, fmt.Errorf("listen for BFD (does another program of this host speak it?): %w", err)
	}
	l := &socket{key: key, conn: conn, stopped: make(chan struct{})}
	read, err := reader(conn, key.v6)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for BFD: %w", err)
	}
	s.sockets[key] = l
	go s.serve(l, read) // forget waits for it
	return l, nil
}

// reader reads packets with their TTL.
func reader(conn net.PacketConn, v6 bool) (func([]byte) (n, ttl int, from net.Addr, err error), error) {
	if v6 {
		c := ipv6.NewPacketConn(conn)
		return func(b []byte) (int, int, net.Addr, error) {
			n, cm, from, err := c.ReadFrom(b)
			if cm == nil {
				cm = &ipv6.ControlMessage{}
			}
			return n, cm.HopLimit, from, err
		}, c.SetControlMessage(ipv6.FlagHopLimit, true)
	}
	c := ipv4.NewPacketConn(conn)
	return func(b []byte) (int, int, net.Addr, error) {
		n, cm, from, err := c.ReadFrom(b)
		if cm == nil {
			cm = &ipv4.ControlMessage{}
		}
		return n, cm.TTL, from, err
	}, c.SetControlMessage(ipv4.FlagTTL, true)
}

// serve hands packets to sessions until the socket is closed.
func (s *Server) serve(l *socket, read func([]byte) (n, ttl int, from net.Addr, err error)) {
	defer close(l.stopped)
	b := make([]byte, 512)
	for {
		n, ttl, from, err := read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		udp, ok := from.(*net.UDPAddr)
		if err != nil || !ok {
			continue
		}
		p, err := parse(b[:n])
		if err != nil {
			continue
		}
		if session := s.find(l, udp.AddrPort().Addr().Unmap(), ttl, p.Yours); session != nil {
			select {
			case session.packets <- p:
			default: // it is busy; the next one comes soon
			}
		}
	}
}

// find gives the session of a packet: that of the discriminator or, where there is none
// yet, that of the address. The TTL proves that it came from the link (RFC 5881, section
// 5), or from not too far.
func (s *Server) find(l *socket, from netip.Addr, ttl int, discriminator uint32) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	fits := func(session *Session) bool {
		least := hops
		if session.config.MultiHop {
			least = int(session.config.MinimumTTL)
		}
		return session.socket == l && session.config.Peer == from && ttl >= least
	}
	if discriminator != 0 {
		if session := s.sessions[discriminator]; session != nil && fits(session) {
			return session
		}
		return nil
	}
	for _, session := range s.sessions {
		if fits(session) {
			return session
		}
	}
	return nil
}

// forget has a session hear nothing any more, and closes a socket without sessions.
func (s *Server) forget(session *Session) {
	s.mu.Lock()
	delete(s.sessions, session.machine.mine)
	l := session.socket
	l.sessions--
	last := l.sessions == 0
	if last {
		delete(s.sockets, l.key)
	}
	s.mu.Unlock()
	if last {
		l.conn.Close()
		<-l.stopped
	}
}
