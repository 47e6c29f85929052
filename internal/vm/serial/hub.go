package serial

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// sessionQueue is how much output waits for a slow session.
	sessionQueue = 1 << 20
	// writeTimeout ends a write to a guest that doesn't read its console.
	writeTimeout = 5 * time.Second
)

// ErrGuestNotReading says that input piles up before the guest.
var ErrGuestNotReading = errors.New("the guest doesn't read its console")

// Hub connects one guest's console with its sessions.
type Hub struct {
	conn net.Conn
	log  *slog.Logger
	done chan struct{} // closed when the reader has ended

	writing sync.Mutex // one session's bytes at a time

	mu       sync.Mutex // guards the following
	record   *Log
	sessions map[*session]bool
	ended    bool
}

// New owns conn and record from now on.
func New(conn net.Conn, record *Log, log *slog.Logger) *Hub {
	h := &Hub{conn: conn, record: record, log: log, done: make(chan struct{}), sessions: map[*session]bool{}}
	go h.read()
	return h
}

// Close ends all sessions and waits; the guest doesn't notice.
func (h *Hub) Close() error {
	err := h.conn.Close()
	<-h.done
	return err
}

// Open begins a session. Closing it leaves the others alone.
func (h *Hub) Open() io.ReadWriteCloser {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &session{hub: h, pending: append([]byte(nil), h.record.tail...)}
	s.more = sync.NewCond(&s.mu)
	s.ended = h.ended
	if !h.ended {
		h.sessions[s] = true
	}
	return s
}

func (h *Hub) read() {
	defer close(h.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := h.conn.Read(buf)
		if n > 0 {
			h.publish(buf[:n])
		}
		if err != nil {
			h.end()
			return
		}
	}
}

func (h *Hub) publish(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.record.Write(p); err != nil {
		h.log.Warn("the console's log can't be written", "err", err)
	}
	for s := range h.sessions {
		s.push(p)
	}
}

func (h *Hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.conn.Close()
	for s := range h.sessions {
		s.finish()
	}
	h.sessions = nil
	if err := h.record.Close(); err != nil {
		h.log.Warn("the console's log can't be closed", "err", err)
	}
}

func (h *Hub) forget(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
}

func (h *Hub) write(p []byte) (int, error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	if err := h.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := h.conn.Write(p)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return n, ErrGuestNotReading
	}
	return n, err
}

// session is one person at the console.
type session struct {
	hub *Hub

	mu      sync.Mutex // guards the following
	more    *sync.Cond // pending grew, or ended
	pending []byte
	ended   bool
}

func (s *session) push(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, p...)
	if drop := len(s.pending) - sessionQueue; drop > 0 {
		s.pending = append(s.pending[:0], s.pending[drop:]...)
	}
	s.more.Signal()
}

func (s *session) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.more.Broadcast()
}

// Read waits for output; io.EOF says that the guest or the session ended.
func (s *session) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) == 0 && !s.ended {
		s.more.Wait()
	}
	if len(s.pending) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

// Write types into the guest.
func (s *session) Write(p []byte) (int, error) { return s.hub.write(p) }

// Close ends the session.
func (s *session) Close() error {
	s.hub.forget(s)
	s.finish()
	return nil
}
