package userspace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times after which a UDP flow in which nothing is sent is over: those of conntrack
// (nf_conntrack_udp_timeout and nf_conntrack_udp_timeout_stream).
const (
	unrepliedTime = 30 * time.Second
	repliedTime   = 120 * time.Second
)

// maxFlows bounds the clients of one frontend: each has a socket of ours.
const maxFlows = 20_000

// udpProxy is a socket that takes a UDP frontend's datagrams, and a socket for each of its
// clients.
type udpProxy struct {
	backend *Backend
	front   *front
	conn    *net.UDPConn

	mu    sync.Mutex // guards the following
	flows map[netip.AddrPort]*flow
	over  bool
}

// flow is one client's.
type flow struct {
	client, backend netip.AddrPort
	conn            *net.UDPConn // to the backend
	closed          atomic.Bool

	mu      sync.Mutex // guards the following
	replied bool
	until   time.Time
}

// buffers are for one datagram each; idle flows have none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// port is the socket's own.
func (p *udpProxy) port() uint16 { return addrPort(p.conn.LocalAddr()).Port() }

// openUDP opens a socket for what is sent to a frontend. begin serves it.
func (b *Backend) openUDP(f *front, at netip.AddrPort) (*udpProxy, error) {
	p := &udpProxy{backend: b, front: f, flows: map[netip.AddrPort]*flow{}}
	err := b.enter(func() (err error) {
		p.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err == nil {
		b.mu.Lock()
		b.proxies[addrPort(p.conn.LocalAddr())] = true
		b.mu.Unlock()
	}
	return p, err
}

// answersItself tells whether a datagram's sender is a frontend or a proxy of ours. That is
// nobody's client: the answers of the two would go to and fro for ever (DP-15).
func (b *Backend) answersItself(sender netip.AddrPort) bool {
	b.mu.Lock()
	proxy := b.proxies[sender]
	b.mu.Unlock()
	return proxy || b.find(sender, protocolUDP) != nil
}

// serve takes what clients send until the socket is closed.
func (p *udpProxy) serve() {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return
	}
	for {
		err := receive(raw, func(datagram []byte, from unix.Sockaddr) {
			client := sender(from)
			if f := p.flow(client); f != nil {
				f.seen(false, time.Now())
				p.backend.total.bytes.Add(uint64(len(datagram)))
				p.front.turn.meter.bytes.Add(uint64(len(datagram)))
				_, _ = f.conn.Write(datagram) // what can't be sent is lost, as UDP's is
			}
		})
		if errors.Is(err, net.ErrClosed) {
			return
		} // else an ICMP error of an earlier answer
	}
}

// receive waits for one datagram. It takes a buffer when there is something to read: most
// sockets are silent.
func receive(raw syscall.RawConn, f func(datagram []byte, from unix.Sockaddr)) error {
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		n, from, err := unix.Recvfrom(int(fd), *buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if failed = err; err == nil {
			f((*buf)[:n], from)
		}
		return true
	})
	return errors.Join(err, failed)
}

// sender is where a datagram came from.
func sender(from unix.Sockaddr) netip.AddrPort {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// flow gives a client's, a new one if need be; nil when nobody serves it.
func (p *udpProxy) flow(client netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil || p.over {
		return f
	}
	if p.backend.answersItself(client) {
		return nil
	}
	choices := p.backend.choices(p.front, client.Addr())
	if len(choices) == 0 {
		return nil
	}
	if len(p.flows) >= maxFlows || !p.backend.room.tryAdd() {
		if !p.displace() || !p.backend.room.tryAdd() {
			p.backend.room.short(fmt.Errorf("clients of %s have all the UDP flows there may be", p.front.get().Key))
			return nil
		}
	}
	f, err := p.open(client, choices[0])
	if err != nil {
		p.backend.room.add(-1)
		p.backend.log.Debug("Can't send to a backend", "frontend", p.front.get().Key, "backend", choices[0], "error", err)
		return nil
	}
	return f
}

// open begins a flow. mu is held, and the descriptor is counted in.
func (p *udpProxy) open(client, backend netip.AddrPort) (*flow, error) {
	b := p.backend
	c, err := b.dial("udp", backend)
	if err != nil {
		return nil, err
	}
	f := &flow{client: client, backend: backend, conn: c.(*net.UDPConn), until: time.Now().Add(unrepliedTime)}
	b.flows.Add(1)
	if !b.begin(func() { p.answer(f) }) {
		b.flows.Add(-1)
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	p.front.remember(client.Addr(), backend, time.Now())
	b.total.opened.Add(1)
	p.front.turn.meter.opened.Add(1)
	p.flows[client] = f
	return f, nil
}

// looks is how many flows are looked at for one to end: of so many the one that is nearest
// to its end is among the older half, but for one case in a thousand.
const looks = 10

// displace ends a flow in favour of a new one, if one of those it looks at has had no
// answer: else a flood of made-up clients would keep the others out. mu is held.
func (p *udpProxy) displace() bool {
	var oldest *flow
	left := looks
	for _, f := range p.flows { // in no order
		if !f.hasReply() && (oldest == nil || f.end().Before(oldest.end())) {
			oldest = f
		}
		if left--; left == 0 {
			break
		}
	}
	if oldest == nil {
		return false
	}
	delete(p.flows, oldest.client)
	oldest.close(p.backend)
	return true
}

// close lets the flow's goroutine end. Its descriptor is free then.
func (f *flow) close(b *Backend) {
	if !f.closed.Swap(true) {
		_ = f.conn.Close()
		b.room.add(-1)
		b.flows.Add(-1)
	}
}

func (f *flow) hasReply() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replied
}

// seen puts the end of the flow off.
func (f *flow) seen(reply bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replied = f.replied || reply
	if f.replied {
		f.until = now.Add(repliedTime)
	} else {
		f.until = now.Add(unrepliedTime)
	}
}

func (f *flow) end() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.until
}

// answer carries what the backend sends to the client, until the flow is over.
func (p *udpProxy) answer(f *flow) {
	defer p.drop(f)
	raw, err := f.conn.SyscallConn()
	if err != nil {
		return
	}
	for {
		end := f.end()
		if !time.Now().Before(end) || f.conn.SetReadDeadline(end) != nil {
			return
		}
		err := receive(raw, func(datagram []byte, _ unix.Sockaddr) {
			p.backend.total.bytes.Add(uint64(len(datagram)))
			p.front.turn.meter.bytes.Add(uint64(len(datagram)))
			_, _ = p.conn.WriteToUDPAddrPort(datagram, f.client)
		})
		switch {
		case err == nil:
			f.seen(true, time.Now())
		case errors.Is(err, unix.ECONNREFUSED): // nobody listens there: the next datagram may find another
			p.front.turn.meter.failed.Add(1)
			p.backend.total.failed.Add(1)
			return
		case errors.Is(err, net.ErrClosed):
			return
		}
	}
}

func (p *udpProxy) drop(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows[f.client] == f {
		delete(p.flows, f.client)
	}
	f.close(p.backend)
}

// review ends the flows that lead where they no longer should.
func (p *udpProxy) review() {
	now := p.front.get()
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, f := range p.flows {
		if !uses(now, f.backend) {
			delete(p.flows, client)
			f.close(p.backend)
		}
	}
}

func (p *udpProxy) close() {
	p.mu.Lock()
	p.over = true
	for client, f := range p.flows {
		delete(p.flows, client)
		f.close(p.backend)
	}
	p.mu.Unlock()
	p.backend.mu.Lock()
	delete(p.backend.proxies, addrPort(p.conn.LocalAddr()))
	p.backend.mu.Unlock()
	_ = p.conn.Close() // it waits for the datagram that serve is at, which needs mu
}
