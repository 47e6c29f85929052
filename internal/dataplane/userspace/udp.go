package userspace

import (
	"errors"
	"net"
	"net/netip"
	"sync"
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

// udpProxy is the socket of one UDP frontend, and a socket for each of its clients.
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

	mu      sync.Mutex // guards the following
	replied bool
	until   time.Time
}

// buffers are for one datagram each; idle flows have none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// port is the socket's own.
func (p *udpProxy) port() uint16 { return addrPort(p.conn.LocalAddr()).Port() }

// serve takes what clients send until the socket is closed.
func (p *udpProxy) serve() {
	buf := make([]byte, 64<<10)
	for {
		n, client, err := p.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		client = netip.AddrPortFrom(client.Addr().Unmap().WithZone(""), client.Port())
		if f := p.flow(client); f != nil {
			f.seen(false, time.Now())
			_, _ = f.conn.Write(buf[:n]) // what can't be sent is lost, as UDP's is
		}
	}
}

// flow gives a client's, a new one if need be; nil when nobody serves it.
func (p *udpProxy) flow(client netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil || p.over {
		return f
	}
	if len(p.flows) >= maxFlows {
		return nil
	}
	choices := p.front.choices(client.Addr(), p.backend.origin(client.Addr()), time.Now())
	if len(choices) == 0 {
		return nil
	}
	c, err := p.backend.dial("udp", choices[0], dialTime)
	if err != nil {
		p.backend.log.Debug("Can't send to a backend", "frontend", p.front.get().Key, "backend", choices[0], "error", err)
		return nil
	}
	p.front.remember(client.Addr(), choices[0], time.Now())
	f := &flow{client: client, backend: choices[0], conn: c.(*net.UDPConn), until: time.Now().Add(unrepliedTime)}
	if !p.backend.begin(func() { p.answer(f) }) {
		_ = c.Close()
		return nil
	}
	p.flows[client] = f
	return f
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
	for {
		end := f.end()
		if !time.Now().Before(end) || f.conn.SetReadDeadline(end) != nil {
			return
		}
		switch err := p.pass(f); {
		case err == nil:
			f.seen(true, time.Now())
		case errors.Is(err, unix.ECONNREFUSED): // nobody listens there: the next datagram may find another
			return
		case errors.Is(err, net.ErrClosed):
			return
		}
	}
}

// pass waits for one datagram and sends it on. It takes a buffer when there is something
// to read.
func (p *udpProxy) pass(f *flow) error {
	raw, err := f.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		n, _, err := unix.Recvfrom(int(fd), *buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if failed = err; err == nil {
			_, _ = p.conn.WriteToUDPAddrPort((*buf)[:n], f.client)
		}
		return true
	})
	return errors.Join(err, failed)
}

func (p *udpProxy) drop(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows[f.client] == f {
		delete(p.flows, f.client)
	}
	_ = f.conn.Close()
}

// review ends the flows that lead where they no longer should.
func (p *udpProxy) review() {
	now := p.front.get()
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, f := range p.flows {
		if !uses(now, f.backend) {
			delete(p.flows, client)
			_ = f.conn.Close()
		}
	}
}

func (p *udpProxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	_ = p.conn.Close()
	for client, f := range p.flows {
		delete(p.flows, client)
		_ = f.conn.Close()
	}
}
