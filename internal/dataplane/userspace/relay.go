package userspace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// linger is how long a direction in which nothing comes keeps its goroutine: long enough
// for a dialogue, short enough that idle connections cost no stack.
const linger = 2 * time.Second

// session is one TCP connection of a client and ours to its backend.
type session struct {
	owner   *Backend
	backend netip.AddrPort
	meter   *meter    // its Service port's
	up      direction // client to backend
	down    direction
	left    atomic.Int32 // directions whose end hasn't come
	over    atomic.Bool
}

// direction is one way of a session.
type direction struct {
	session  *session
	from, to *net.TCPConn
	fd       int  // of from
	watched  bool // the idle set has had it; one goroutine at a time has the direction
}

func newSession(owner *Backend, client, upstream *net.TCPConn, backend netip.AddrPort, m *meter) (*session, error) {
	s := &session{owner: owner, backend: backend, meter: m}
	s.up = direction{session: s, from: client, to: upstream}
	s.down = direction{session: s, from: upstream, to: client}
	s.left.Store(2)
	for _, d := range []*direction{&s.up, &s.down} {
		raw, err := d.from.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { d.fd = int(fd) })
		}
		if err != nil {
			return nil, fmt.Errorf("find the descriptor of a connection: %w", err)
		}
	}
	return s, nil
}

func (s *session) count(bytes int) {
	s.meter.bytes.Add(uint64(bytes))
	s.owner.total.bytes.Add(uint64(bytes))
}

// end closes both connections. Broken ones are reset: what was lost on the way must not
// look like an end.
func (s *session) end(broken bool) {
	if s.over.Swap(true) {
		return
	}
	s.owner.idle.forget(&s.up)
	s.owner.idle.forget(&s.down)
	for _, c := range []*net.TCPConn{s.up.from, s.down.from} {
		if broken {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
	s.owner.forget(s)
}

// finish notes that a direction's end was passed on.
func (d *direction) finish() {
	_ = d.to.CloseWrite()
	if d.session.left.Add(-1) == 0 {
		d.session.end(false)
	}
}

// portion is what one splice(2) takes at most.
const portion = largePipe

// carry passes on what comes until the direction ends, or until nothing has come for
// linger: then the idle set watches it, and it has no goroutine and no pipe.
func (d *direction) carry() {
	from, err := d.from.SyscallConn()
	if err != nil {
		d.session.end(true)
		return
	}
	to, err := d.to.SyscallConn()
	if err != nil {
		d.session.end(true)
		return
	}
	t := transfer{pipes: &d.session.owner.pipes}
	defer t.release()
	if d.watched {
		t.borrow() // what comes may be urgent data, at which splice(2) says that there is nothing
	}
	take, put := t.take, t.put
	var until time.Time
	for {
		if now := time.Now(); until.Sub(now) < linger/2 {
			until = now.Add(linger)
			_ = d.from.SetReadDeadline(until) // what is closed tells so below
		}
		err := from.Read(take)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err := d.session.owner.idle.watch(d, from)
			if err == nil {
				return
			}
			d.session.owner.log.Debug("An idle connection keeps its goroutine", "backend", d.session.backend, "error", err)
			until = time.Time{}
			continue
		case err != nil || t.err != nil:
			d.session.end(true)
			return
		case t.held == 0:
			d.finish()
			return
		}
		d.session.count(t.held)
		if err := to.Write(put); err != nil || t.err != nil {
			d.session.end(true)
			return
		}
		t.returnBuffer()
	}
}

// transfer is bytes on their way from one socket to another: in a pipe, or in a buffer for
// the first of them after a pause, and where there are no descriptors for a pipe, which must
// not end a connection that is there.
type transfer struct {
	pipes  *pipes
	pipe   *pipe
	buffer *[]byte
	at     int // of the buffer's bytes, the first to be written
	held   int // bytes that were taken and not put; 0 after take: the end
	err    error
}

// take fills the pipe from a socket; false: nothing is there yet, and no pipe is kept.
func (t *transfer) take(fd uintptr) bool {
	if t.pipe == nil && t.buffer == nil {
		var err error
		if t.pipe, err = t.pipes.get(); err != nil {
			t.borrow()
		}
	}
	if t.pipe != nil {
		t.held, t.err = splice(int(fd), t.pipe.w, portion)
	} else {
		t.at = 0
		t.held, t.err = again(func() (int, error) { return unix.Read(int(fd), *t.buffer) })
	}
	if errors.Is(t.err, unix.EAGAIN) {
		t.held, t.err = 0, nil
		t.release()
		return false
	}
	return true
}

// put empties the pipe into a socket; false: that takes no more now.
func (t *transfer) put(fd uintptr) bool {
	for t.held > 0 {
		var n int
		var err error
		if t.pipe != nil {
			n, err = splice(t.pipe.r, int(fd), t.held)
		} else {
			n, err = again(func() (int, error) { return unix.Write(int(fd), (*t.buffer)[t.at:t.at+t.held]) })
		}
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err != nil {
			t.err = err
			return true
		}
		t.held -= n
		t.at += n
	}
	return true
}

// release gives the pipe or the buffer back.
func (t *transfer) release() {
	if t.pipe != nil {
		t.pipes.put(t.pipe, t.held == 0)
		t.pipe = nil
	}
	t.returnBuffer()
}

func (t *transfer) borrow() { t.buffer = buffers.Get().(*[]byte) }

func (t *transfer) returnBuffer() {
	if t.buffer != nil {
		buffers.Put(t.buffer)
		t.buffer = nil
	}
}

func splice(from, to, most int) (int, error) {
	return again(func() (int, error) {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
}

// again repeats a system call that a signal broke.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return max(0, n), err
		}
	}
}
