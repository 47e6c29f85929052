package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"portico.dev/portico/bench/network"
)

const (
	// sendEach is the client's pace, and the finest gap that is seen.
	sendEach = 5 * time.Millisecond
	// steadyAnswers in a row from one node say that it has the address.
	steadyAnswers = 20
	// answerPatience is how long an answer may be under way; later it is lost.
	answerPatience = 300 * time.Millisecond
)

// stream is a client that sends to the Service all the time.
type stream struct {
	conn  net.Conn
	ended chan struct{}
	group sync.WaitGroup

	mu       sync.Mutex // guards the following
	requests []request
	last     string // who answered last
	steady   int    // answers in a row from it
}

// request is one; its place in the list is its number.
type request struct {
	sent, answered time.Time
	by             string
}

func newStream(h *network.Host, to netip.AddrPort) (*stream, error) {
	s := &stream{ended: make(chan struct{})}
	err := h.Do(func() (err error) {
		s.conn, err = (&net.Dialer{}).DialContext(context.Background(), "udp4", to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("send to %s: %w", to, err)
	}
	s.group.Go(s.send)
	s.group.Go(s.receive)
	return s, nil
}

func (s *stream) send() {
	tick := time.NewTicker(sendEach)
	defer tick.Stop()
	var b [8]byte
	for {
		select {
		case <-s.ended:
			return
		case <-tick.C:
			s.mu.Lock()
			binary.BigEndian.PutUint64(b[:], uint64(len(s.requests)))
			s.requests = append(s.requests, request{sent: time.Now()})
			s.mu.Unlock()
			_, _ = s.conn.Write(b[:]) // one that isn't sent isn't answered
		}
	}
}

func (s *stream) receive() {
	b := make([]byte, 512)
	for {
		n, err := s.conn.Read(b)
		now := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 8 {
			continue // an ICMP error
		}
		by := string(b[8:n])
		s.mu.Lock()
		if i := binary.BigEndian.Uint64(b[:8]); i < uint64(len(s.requests)) && s.requests[i].by == "" {
			s.requests[i].answered, s.requests[i].by = now, by
		}
		if by != s.last {
			s.last, s.steady = by, 0
		}
		s.steady++
		s.mu.Unlock()
	}
}

func (s *stream) close() {
	if s == nil {
		return
	}
	close(s.ended)
	_ = s.conn.Close()
	s.group.Wait()
}

// holder is who answers steadily; "": nobody yet.
func (s *stream) holder() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.requests); s.steady < steadyAnswers || n == 0 || time.Since(s.requests[n-1].sent) > time.Second {
		return ""
	}
	// Who answered in a row, but long ago, has lost it.
	for i := len(s.requests) - 1; i >= 0; i-- {
		if r := s.requests[i]; r.by != "" {
			if time.Since(r.answered) > answerPatience {
				return ""
			}
			break
		}
	}
	return s.last
}

// gap is the longest time from an answered request to the next answered one, among those
// sent within a time and the last before it.
func (s *stream) gap(begin, end time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last time.Time
	for _, r := range s.requests {
		if r.by == "" || r.sent.After(end) {
			continue
		}
		if !last.IsZero() && !r.sent.Before(begin) {
			longest = max(longest, r.sent.Sub(last))
		}
		last = r.sent
	}
	return longest
}

// lost is how many requests sent within a time had no answer. Those at its end must have
// had the time for one.
func (s *stream) lost(begin, end time.Time) (lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.by == "" && !r.sent.Before(begin) && !r.sent.After(end) {
			lost++
		}
	}
	return lost
}
