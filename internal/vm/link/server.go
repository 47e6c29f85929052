package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// RFC 4861 section 6.2.1: the defaults of MinRtrAdvInterval and MaxRtrAdvInterval.
const minAdvertise, maxAdvertise = 200 * time.Second, 600 * time.Second

// server answers on one guest's link. It uses packet sockets, which see the
// questions before netfilter does: a host firewall that lets nothing in doesn't
// keep guests from their addresses, and servers of others don't get in the way.
type server struct {
	log     *slog.Logger
	answers *responder
	conns   []*packet.Conn
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// serve opens the sockets on the link and answers until close.
func serve(ifi *net.Interface, r *responder, log *slog.Logger) (*server, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &server{log: log, answers: r, stop: stop}
	if r.guest.addr(false).IsValid() {
		conn, err := listen(ifi, unix.ETH_P_IP, filter4)
		if err != nil {
			s.close()
			return nil, err
		}
		s.conns = append(s.conns, conn)
		s.done.Go(func() { s.read(ctx, conn) })
	}
	if r.guest.addr(true).IsValid() {
		conn, err := listen(ifi, unix.ETH_P_IPV6, filter6)
		if err != nil {
			s.close()
			return nil, err
		}
		s.conns = append(s.conns, conn)
		s.done.Go(func() { s.read(ctx, conn) })
		s.done.Go(func() { s.advertise(ctx, conn) })
	}
	return s, nil
}

func listen(ifi *net.Interface, protocol int, filter func() ([]bpf.RawInstruction, error)) (*packet.Conn, error) {
	program, err := filter()
	if err != nil {
		return nil, fmt.Errorf("assemble the filter for %s: %w", ifi.Name, err)
	}
	conn, err := packet.Listen(ifi, packet.Raw, protocol, &packet.Config{Filter: program})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", ifi.Name, err)
	}
	return conn, nil
}

func (s *server) close() {
	s.stop()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.done.Wait()
}

func (s *server) read(ctx context.Context, conn *packet.Conn) {
	buf := make([]byte, 65536)
	for {
		n, _, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENETDOWN): // said once when the link goes down
			continue
		case err != nil:
			s.log.Error("The guest's questions for addresses are no longer heard", "error", err)
			return
		}
		if frame := s.safely(buf[:n]); frame != nil {
			s.send(ctx, conn, frame)
		}
	}
}

// safely keeps a guest from ending the daemon and with it its neighbours' service,
// should the parsers of DHCP messages, which aren't ours, ever panic on what it sends.
func (s *server) safely(frame []byte) (answer []byte) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("A guest's message broke its parser; it gets no answer", "panic", p, "frame", fmt.Sprintf("%x", frame))
			answer = nil
		}
	}()
	return s.answers.answer(frame)
}

// advertise sends the router advertisement at once and now and then.
func (s *server) advertise(ctx context.Context, conn *packet.Conn) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.send(ctx, conn, s.answers.advert)
		timer.Reset(minAdvertise + rand.N(maxAdvertise-minAdvertise))
	}
}

// send puts a frame on the link. A link that is down, or whose guest isn't there
// to take it, is no news.
func (s *server) send(ctx context.Context, conn *packet.Conn, frame []byte) {
	_, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	if err == nil || ctx.Err() != nil || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENXIO) {
		return
	}
	s.log.Warn("Can't answer the guest", "error", err)
}
