package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Answer is what a server says to each client: who it is and whom it sees.
type Answer struct {
	Server netip.AddrPort // the address it listens on
	Client netip.AddrPort // the client as the server sees it
}

// line is an Answer on the wire.
func line(server, client netip.AddrPort) string {
	return server.String() + " " + client.String() + "\n"
}

func parseAnswer(s string) (Answer, error) {
	server, client, _ := strings.Cut(strings.TrimSpace(s), " ")
	sp, err := netip.ParseAddrPort(server)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q: %w", s, err)
	}
	cp, err := netip.ParseAddrPort(client)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q: %w", s, err)
	}
	return Answer{sp, cp}, nil
}

func unmap(ap netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()) }

// ServeTCP answers every connection with an Answer, then echoes, until the test
// ends. Stopping it earlier ends its connections too.
func (h *Host) ServeTCP(t T, at netip.AddrPort) (stop func()) {
	t.Helper()
	var l net.Listener
	err := h.Do(func() (err error) {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), "tcp", at.String())
		return err
	})
	h.must(t, "listen on TCP "+at.String(), err)
	s := &tcpServer{listener: l, open: map[net.Conn]bool{}}
	s.group.Go(func() { s.accept(at) })
	stop = sync.OnceFunc(s.stop)
	t.Cleanup(stop)
	return stop
}

type tcpServer struct {
	listener net.Listener
	group    sync.WaitGroup

	mu     sync.Mutex // guards the following
	open   map[net.Conn]bool
	closed bool
}

func (s *tcpServer) accept(at netip.AddrPort) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		} else {
			s.open[c] = true
			s.group.Go(func() { s.talk(c, at) })
		}
		s.mu.Unlock()
	}
}

func (s *tcpServer) talk(c net.Conn, at netip.AddrPort) {
	if _, err := io.WriteString(c, line(at, unmap(c.RemoteAddr().(*net.TCPAddr).AddrPort()))); err == nil {
		io.Copy(c, c) //nolint:errcheck // the client ends it in its own way
	}
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.Close()
}

func (s *tcpServer) stop() {
	s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.group.Wait()
}

// ServeUDP answers every datagram with an Answer until the test ends.
func (h *Host) ServeUDP(t T, at netip.AddrPort) (stop func()) {
	t.Helper()
	c, err := h.Listen(at)
	h.must(t, "listen on UDP "+at.String(), err)
	var group sync.WaitGroup
	group.Go(func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.WriteToUDPAddrPort([]byte(line(at, unmap(from))), from) //nolint:errcheck // UDP may be lost
			}
		}
	})
	stop = sync.OnceFunc(func() {
		c.Close()
		group.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// Patience bounds every exchange that should succeed. On a busy machine a lost
// SYN alone costs a second (RFC 6298); a lost datagram costs all of it, and is asked again.
const Patience = 3 * time.Second

// Dial opens a connection from the host; from may be invalid for any address.
func (h *Host) Dial(network string, from, to netip.AddrPort, timeout time.Duration) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = dial(network, from, to, timeout)
		return err
	})
	return c, err
}

// dial works in the calling thread's namespace: with an address in numbers and
// no second family net opens the socket where it is called.
func dial(network string, from, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout, FallbackDelay: -1}
	d.SetMultipathTCP(false)
	switch {
	case from.IsValid() && network == "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	case from.IsValid():
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	return d.Dial(network, to.String())
}

// Listen opens a UDP socket of the host that says nothing by itself.
func (h *Host) Listen(at netip.AddrPort) (c *net.UDPConn, err error) {
	err = h.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return c, err
}

// Ask makes one exchange with a server of this package.
func (h *Host) Ask(network string, to netip.AddrPort) (a Answer, err error) {
	err = h.Do(func() (err error) {
		a, err = h.ask(network, netip.AddrPort{}, to, Patience)
		return err
	})
	return a, err
}

// AskFrom makes one exchange from one of the host's addresses; a port of zero is
// any.
func (h *Host) AskFrom(network string, from, to netip.AddrPort) (a Answer, err error) {
	err = h.Do(func() (err error) {
		a, err = h.ask(network, from, to, Patience)
		return err
	})
	return a, err
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// AskTimes makes n exchanges one after another and gives the number of answers
// of each server; it stops at the first that fails.
func (h *Host) AskTimes(network string, to netip.AddrPort, n int) (map[netip.AddrPort]int, error) {
	count := map[netip.AddrPort]int{}
	err := h.Do(func() error {
		for range n {
			a, err := h.ask(network, netip.AddrPort{}, to, Patience)
			if err != nil {
				return err
			}
			count[a.Server]++
		}
		return nil
	})
	return count, err
}

// ask takes a new port for each UDP exchange: conntrack leads the packets of a
// flow that it knows to where the flow went before.
func (h *Host) ask(network string, from, to netip.AddrPort, timeout time.Duration) (Answer, error) {
	if network == "udp" && !from.IsValid() {
		const first, count = 20000, 40000
		from = netip.AddrPortFrom(unspecified(to.Addr()), uint16(first+h.ports.Add(1)%count))
	}
	c, err := dial(network, from, to, timeout)
	if err != nil {
		return Answer{}, err
	}
	defer c.Close()
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0) //nolint:errcheck // no TIME_WAIT: tests make thousands of connections
	}
	return Exchange(c, timeout)
}

// Exchange reads a TCP server's greeting, or asks over an open UDP socket.
func Exchange(c net.Conn, timeout time.Duration) (Answer, error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return Answer{}, err
	}
	if _, ok := c.(*net.UDPConn); ok {
		if _, err := c.Write([]byte("?")); err != nil {
			return Answer{}, err
		}
	}
	return next(c)
}

// Next reads one more answer from an open UDP socket, to a datagram of before.
func Next(c net.Conn, timeout time.Duration) (Answer, error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return Answer{}, err
	}
	return next(c)
}

func next(c net.Conn) (Answer, error) {
	s, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(s)
}

// Echo sends a line over an open TCP connection and waits for it to come back.
func Echo(c net.Conn, timeout time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	const text = "still there?\n"
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("sent %q, got back %q", text, got)
	}
	return nil
}
