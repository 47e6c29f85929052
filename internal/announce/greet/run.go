package greet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Port is where agents greet each other, by UDP on the nodes' addresses.
const Port = 10246

// Mesh greets the peers over a socket.
type Mesh struct {
	log    *slog.Logger
	socket *socket
	start  time.Time
	view   atomic.Pointer[View]
	news   chan struct{} // capacity 1
	// fitUntil is when this node is no longer sure that the others count on it, as Now.
	fitUntil atomic.Int64

	mu   sync.Mutex // guards the following
	mesh *mesh
}

// Open opens the socket, in the network namespace of the calling thread. Nothing is sent
// before there are a key and peers.
func Open(self string, log *slog.Logger) (*Mesh, error) {
	s, err := openSocket(Port)
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d, where agents greet each other: %w", Port, err)
	}
	m := &Mesh{log: log, socket: s, start: time.Now(), news: make(chan struct{}, 1), mesh: newMesh(self, 0)}
	m.view.Store(&View{})
	return m, nil
}

// Now is the time since Open, by the monotonic clock.
func (m *Mesh) Now() time.Duration { return time.Since(m.start) }

// View is what is known now; Changed has a value when it is another than before.
func (m *Mesh) View() *View { return m.view.Load() }

// Changed tells that View gives something new.
func (m *Mesh) Changed() <-chan struct{} { return m.news }

// Fit tells whether this node may act on what it holds: it has joined, and its thread
// came in time. It is false from the moment that the others may count it as dead.
func (m *Mesh) Fit() bool { return int64(m.Now()) < m.fitUntil.Load() }

// SetKeys takes the cluster's keys; the first signs, all are accepted.
func (m *Mesh) SetKeys(keys ...[]byte) {
	m.change(func(time.Duration) { m.mesh.keys = keys })
}

// SetPeers takes the other nodes.
func (m *Mesh) SetPeers(peers []Peer) {
	m.change(func(now time.Duration) { m.mesh.setPeers(now, peers) })
}

// SetInterval takes Busy or Calm.
func (m *Mesh) SetInterval(d time.Duration) {
	m.change(func(time.Duration) { m.mesh.interval = d })
}

// Say tells all peers what this node says of itself.
func (m *Mesh) Say(w Word) {
	m.change(func(now time.Duration) { m.mesh.say(now, w) })
}

// Counts are those since Open.
func (m *Mesh) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mesh.counts
}

func (m *Mesh) change(f func(now time.Duration)) {
	m.mu.Lock()
	f(m.Now())
	m.flush()
	m.mu.Unlock()
}

// flush sends what is to be sent and hands over the view. mu is held.
func (m *Mesh) flush() {
	for _, d := range m.mesh.out {
		// A datagram that can't be sent is one that was lost: silence says the rest.
		_ = m.socket.send(d)
	}
	m.mesh.out = m.mesh.out[:0]
	if !m.mesh.changed {
		return
	}
	before, now := m.view.Load(), m.mesh.view()
	m.view.Store(now)
	m.tell(before, now)
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// tell logs who came and went.
func (m *Mesh) tell(before, now *View) {
	for _, name := range slices.Sorted(maps.Keys(now.Peers)) {
		switch was, is := before.Peers[name], now.Peers[name]; {
		case is.Alive && !was.Alive:
			m.log.Info("A node is heard", "peer", name)
		case was.Alive && !is.Alive:
			m.log.Warn("A node is silent and counts as lost", "peer", name, "silent", (m.Now() - is.Heard).Round(time.Millisecond))
		}
	}
	if before.Joined && !now.Joined {
		m.log.Warn("This agent was not running for so long that others may have taken its addresses; it answers for none until it has heard them")
	}
}

// niceness of the thread: it works some microseconds, many times a second, and must not
// wait behind those who work all the time.
const niceness = -15

// Run greets until ctx ends. It keeps a thread for itself: a goroutine that Go's
// scheduler lets wait would look like a dead node.
func (m *Mesh) Run(ctx context.Context) error {
	defer m.socket.close()
	stop := context.AfterFunc(ctx, m.socket.wake)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the niceness ends with the thread
		if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness); err != nil {
			m.log.Debug("The thread of greetings has no precedence", "error", err)
		}
		ended <- m.loop(ctx)
	}()
	return <-ended
}

func (m *Mesh) loop(ctx context.Context) error {
	due := m.Now()
	for ctx.Err() == nil {
		if err := m.socket.wait(due - m.Now()); err != nil {
			return fmt.Errorf("wait for greetings: %w", err)
		}
		m.mu.Lock()
		m.receiveAll()
		due = m.mesh.turn(m.Now())
		if m.mesh.joined {
			m.fitUntil.Store(int64(m.Now() + awayAfter + m.mesh.interval/2))
		} else {
			m.fitUntil.Store(0)
		}
		m.flush()
		m.mu.Unlock()
	}
	return nil
}

// receiveAll takes what has come: who judges silence must have listened first. It is
// bounded, for a flood must not keep the thread from ticking.
func (m *Mesh) receiveAll() {
	const most = 1024
	for range most {
		text, err := m.socket.receive()
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier datagram
		}
		m.mesh.receive(m.Now(), text)
	}
}
