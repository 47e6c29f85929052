package dns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen opens UDP sockets and a TCP socket on each address. When one fails, those
// before it are closed.
func Listen(ctx context.Context, addrs []netip.AddrPort) (udp []net.PacketConn, tcp []net.Listener, err error) {
	defer func() {
		if err != nil {
			Close(udp, tcp)
			udp, tcp = nil, nil
		}
	}()
	for _, a := range addrs {
		sockets, err := listenUDP(ctx, a)
		udp = append(udp, sockets...)
		if err != nil {
			return udp, tcp, fmt.Errorf("DNS: listen on %s by UDP: %w", a, err)
		}
		l, err := listenTCP(ctx, sockets[0].LocalAddr().String())
		if err != nil {
			return udp, tcp, fmt.Errorf("DNS: listen on %s by TCP: %w", a, err)
		}
		tcp = append(tcp, l)
	}
	return udp, tcp, nil
}

// listenTCP listens by plain TCP: Go would make MPTCP listeners, which resolvers don't
// ask for.
func listenTCP(ctx context.Context, at string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", at)
}

// receiveBuffer is room for some thousand queries that come at once, where root may
// have it; the usual 208 KiB are full after 270.
const receiveBuffer = 4 << 20

// listenUDP opens a socket for each processor on one address; the kernel spreads
// clients over them (SO_REUSEPORT, socket(7)). The first is bound without that, so that
// an address where somebody else listens is an error and never shared.
func listenUDP(ctx context.Context, at netip.AddrPort) (out []net.PacketConn, err error) {
	share := func(fd uintptr) error { return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	widen := func(fd uintptr) error {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) // it works without
		return nil
	}
	for n := range runtime.GOMAXPROCS(0) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			if n == 0 {
				return control(c, widen)
			}
			return errors.Join(control(c, widen), control(c, share))
		}}
		u, err := lc.ListenPacket(ctx, "udp", at.String())
		if err != nil {
			return out, err
		}
		out = append(out, u)
		if n > 0 {
			continue
		}
		if at, err = netip.ParseAddrPort(u.LocalAddr().String()); err != nil { // with the port, where it was 0
			return out, err
		}
		raw, err := u.(*net.UDPConn).SyscallConn()
		if err != nil {
			return out, err
		}
		if err := control(raw, share); err != nil {
			return out, err
		}
	}
	return out, nil
}

func control(c syscall.RawConn, f func(fd uintptr) error) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = f(fd) }); err != nil {
		return err
	}
	return failed
}

// Close closes sockets that Serve doesn't get.
func Close(udp []net.PacketConn, tcp []net.Listener) {
	for _, u := range udp {
		u.Close()
	}
	for _, l := range tcp {
		l.Close()
	}
}

// Serve answers on the sockets until ctx ends, then closes them, waits for all
// that runs, and returns nil; or the error of the first socket that fails. The
// sockets must be bound to addresses of their own, not to "any", else replies
// could leave with another source. Serve is called once.
func (s *Server) Serve(ctx context.Context, udp []net.PacketConn, tcp []net.Listener) error {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run := &run{Server: s, ctx: ctx, end: cancel}
	defer s.forward.Close()
	defer run.wg.Wait()
	// Here and not by context.AfterFunc: its stop, deferred, can win against the
	// function even though ctx is over, and the readers would read for ever.
	defer Close(udp, tcp)

	for _, u := range udp {
		s.owns(u.LocalAddr())
		conn, ok := u.(*net.UDPConn)
		if !ok {
			cancel(fmt.Errorf("DNS: %T is no UDP socket", u))
			break
		}
		b, err := newBatch(conn)
		if err != nil {
			cancel(err)
			break
		}
		counts := s.newCounts(udpTransport)
		run.wg.Go(func() { run.udp(conn, b, counts) })
	}
	for _, l := range tcp {
		s.owns(l.Addr())
		run.wg.Go(func() { run.tcp(l) })
	}
	<-ctx.Done()
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (s *Server) owns(a net.Addr) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = append(s.own, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

// run is one call of Serve.
type run struct {
	*Server
	ctx context.Context
	end context.CancelCauseFunc // with the error of a socket
	wg  sync.WaitGroup
}

// udp answers what comes in by one socket: names of the zone and remembered ones
// here, others in a goroutine of their own, of which there is a bounded number.
func (r *run) udp(conn *net.UDPConn, b *batch, counts *counts) {
	var q query
	notes := make([]noted, 0, batchSize)
	for {
		n, err := b.receive()
		if err != nil {
			if r.over(err) {
				return
			}
			continue
		}
		began := time.Now()
		for i := range n {
			msg, client := b.query(i), b.client(i)
			reply, what := r.answer(b.reply(i), msg, client, false, &q)
			if what == ask {
				if r.workers.enter(client) {
					msg, from := append([]byte(nil), msg...), b.sender(i)
					r.wg.Go(func() {
						defer r.workers.leave(client)
						r.askUDP(conn, msg, from)
					})
					continue
				}
				reply, what = r.fail(reply, msg, &q, rcodeServFail)
			}
			if what == send {
				b.queue(i, reply)
				notes = append(notes, note(&q, reply))
			}
		}
		err = b.flush()
		counts.add(time.Since(began), notes...)
		notes = notes[:0]
		if err != nil && r.over(err) {
			return
		}
	}
}

func (r *run) askUDP(conn *net.UDPConn, msg []byte, from netip.AddrPort) {
	var q query
	if q.parse(msg) != accept {
		return
	}
	began := time.Now()
	reply := r.askUpstream(r.ctx, make([]byte, 0, maxUDP), msg, from.Addr(), false, &q)
	_, _ = conn.WriteToUDPAddrPort(reply, from)
	r.slow[udpTransport].add(time.Since(began), note(&q, reply))
}

// over reports whether an error ends the reading. On a UDP socket it doesn't,
// but for the socket being closed: Linux hands in the errors of earlier sends.
func (r *run) over(err error) bool {
	if r.ctx.Err() != nil {
		return true
	}
	if errors.Is(err, net.ErrClosed) {
		r.end(fmt.Errorf("DNS: %w", err))
		return true
	}
	r.cfg.Logger.Debug("DNS: read", "error", err)
	return false
}

// acceptPause is how long accept waits when the process has no file descriptors
// left, instead of spinning.
const acceptPause = 50 * time.Millisecond

func (r *run) tcp(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if r.over(err) {
				return
			}
			select {
			case <-time.After(acceptPause):
			case <-r.ctx.Done():
			}
			continue
		}
		client := remote(conn)
		_, encrypted := conn.(*tls.Conn) // a stranger is not worth a handshake
		if encrypted && !r.allowed(client) || !r.conns.enter(client) {
			conn.Close()
			continue
		}
		r.wg.Go(func() {
			defer r.conns.leave(client)
			defer conn.Close()
			stop := context.AfterFunc(r.ctx, func() { conn.Close() })
			defer stop()
			r.converse(conn, client)
		})
	}
}

func remote(conn net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
