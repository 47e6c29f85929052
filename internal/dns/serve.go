package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// Listen opens a UDP and a TCP socket on each address. When one fails, those
// before it are closed.
func Listen(ctx context.Context, addrs []netip.AddrPort) (udp []net.PacketConn, tcp []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(udp, tcp)
			udp, tcp = nil, nil
		}
	}()
	// Plain TCP: Go would make MPTCP listeners, which resolvers don't ask for.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	for _, a := range addrs {
		u, err := lc.ListenPacket(ctx, "udp", a.String())
		if err != nil {
			return udp, tcp, fmt.Errorf("DNS: listen on %s by UDP: %w", a, err)
		}
		udp = append(udp, u)
		l, err := lc.Listen(ctx, "tcp", u.LocalAddr().String())
		if err != nil {
			return udp, tcp, fmt.Errorf("DNS: listen on %s by TCP: %w", a, err)
		}
		tcp = append(tcp, l)
	}
	return udp, tcp, nil
}

func closeAll(udp []net.PacketConn, tcp []net.Listener) {
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
	defer closeAll(udp, tcp)

	for _, u := range udp {
		s.owns(u.LocalAddr())
		conn, ok := u.(addrPortConn)
		if !ok {
			cancel(fmt.Errorf("DNS: %T is no UDP socket", u))
			break
		}
		for range readers() {
			run.wg.Go(func() { run.udp(conn) })
		}
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

// readers is how many goroutines take turns at a UDP socket. The next one reads
// while the last one still writes; more than a few only wait.
func readers() int { return min(4, runtime.GOMAXPROCS(0)) }

func (s *Server) owns(a net.Addr) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = append(s.own, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

// addrPortConn is what of *net.UDPConn is used.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
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
func (r *run) udp(conn addrPortConn) {
	in, out := make([]byte, maxUDP), make([]byte, 0, maxTCP)
	var q query
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if err != nil {
			if r.over(err) {
				return
			}
			continue
		}
		client := from.Addr().Unmap()
		reply, what := r.answer(out, in[:n], client, false, &q)
		if what == ask {
			if r.workers.enter(client) {
				msg := append([]byte(nil), in[:n]...)
				r.wg.Go(func() {
					defer r.workers.leave(client)
					r.askUDP(conn, msg, from)
				})
				continue
			}
			reply, what = r.fail(out, in[:n], &q, rcodeServFail)
		}
		if what == send {
			// A client that can't be reached is the client's affair.
			_, _ = conn.WriteToUDPAddrPort(reply, from)
		}
	}
}

func (r *run) askUDP(conn addrPortConn, msg []byte, from netip.AddrPort) {
	var q query
	if q.parse(msg) != accept {
		return
	}
	reply := r.askUpstream(r.ctx, make([]byte, 0, maxUDP), msg, false, &q)
	_, _ = conn.WriteToUDPAddrPort(reply, from)
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
		if !r.conns.enter(client) {
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
