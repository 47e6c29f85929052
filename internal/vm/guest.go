package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"portico.dev/portico/internal/vm/accel"
	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/qmp"
	"portico.dev/portico/internal/vm/serial"
	"portico.dev/portico/internal/vm/spec"
)

// State is what a guest does.
type State string

const (
	Running State = "Running"
	Paused  State = "Paused"
	Ended   State = "Ended" // powered off, by itself or because we asked
	Failed  State = "Failed"
)

// Status is a guest at one moment.
type Status struct {
	State   State
	Reason  string // a word, for states other than Running
	Message string // a sentence
	Started time.Time
	Ended   time.Time
	Accel   accel.Choice
}

// Over reports whether the guest has ended.
func (s Status) Over() bool { return s.State == Ended || s.State == Failed }

// commandTimeout bounds one QMP command: QEMU answers these in milliseconds
// unless the host is out of memory or QEMU was stopped by a signal.
const commandTimeout = 10 * time.Second

// Guest is one guest, running or ended.
type Guest struct {
	Spec spec.Spec

	m    *Manager
	dir  string
	log  *slog.Logger
	over chan struct{} // closed when the guest has ended and its link is gone
	let  chan struct{} // closed by release
	gone chan struct{} // closed when nothing watches the guest any more
	news chan struct{} // holds one token when the status changed

	// Unset once the guest has ended.
	proc *process.Process
	mon  *qmp.Client
	hub  *serial.Hub

	mu      sync.Mutex // guards the following
	status  Status
	asked   string // why we end it; "" if it ends by itself
	letOnce sync.Once
}

func (m *Manager) newGuest(s spec.Spec, dir string) *Guest {
	return &Guest{
		Spec: s, m: m, dir: dir, log: m.cfg.Log.With("guest", s.Namespace+"/"+s.Name, "id", s.ID),
		over: make(chan struct{}), let: make(chan struct{}), gone: make(chan struct{}), news: make(chan struct{}, 1),
	}
}

// Status is the guest now.
func (g *Guest) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status
}

// Changed gets a token after each change of the status. It is for one reader.
func (g *Guest) Changed() <-chan struct{} { return g.news }

// Console opens a session at the guest's serial console, beside others.
func (g *Guest) Console() (io.ReadWriteCloser, error) {
	if g.hub == nil || g.Status().Over() {
		return nil, fmt.Errorf("open the console of %s/%s: %w", g.Spec.Namespace, g.Spec.Name, ErrNotRunning)
	}
	return g.hub.Open(), nil
}

func (g *Guest) update(change func(*Status)) {
	g.mu.Lock()
	before := g.status
	change(&g.status)
	changed := before != g.status
	g.mu.Unlock()
	if !changed {
		return
	}
	select {
	case g.news <- struct{}{}:
	default: // a token is waiting already
	}
}

// command runs a QMP command without a result.
func (g *Guest) command(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return g.mon.Execute(ctx, name, nil, nil)
}

// watch follows the guest until it ends or release is called. Events only say
// that it is time to ask: the truth is query-status.
func (g *Guest) watch() {
	defer close(g.gone)
	events := g.mon.Events()
	for {
		select {
		case e, open := <-events:
			if !open {
				events = nil // QEMU's end, or a lost monitor; the process tells
				continue
			}
			g.log.Debug("QEMU event", "event", e.Name, "data", string(e.Data))
			if g.refresh() {
				g.finish()
				return
			}
		case <-g.proc.Done():
			g.update(func(s *Status) {
				if !s.Over() {
					s.State, s.Reason, s.Message = Failed, ReasonQEMUFailed, "QEMU ended unexpectedly ("+g.proc.Exit()+")"+complaint(g.dir)
				}
			})
			g.finish()
			return
		case <-g.let:
			return
		}
	}
}

// refresh asks QEMU for the guest's state; it reports whether the guest is over.
// The state of one that ends becomes public in finish only.
func (g *Guest) refresh() bool {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var got struct{ Status string }
	if err := g.mon.Execute(ctx, "query-status", nil, &got); err != nil {
		return false // QEMU is ending; the process tells
	}
	next := interpret(got.Status)
	if next.Over() {
		g.mu.Lock()
		defer g.mu.Unlock()
		next.Started, next.Accel = g.status.Started, g.status.Accel
		g.status = next
		return true
	}
	g.update(func(s *Status) { s.State, s.Reason, s.Message = next.State, next.Reason, next.Message })
	return false
}

// interpret reads QEMU's run states (qapi/run-state.json).
func interpret(runState string) Status {
	switch runState {
	case "running", "suspended":
		return Status{State: Running}
	case "shutdown":
		return Status{State: Ended, Reason: ReasonPoweredOff, Message: "The guest powered itself off."}
	case "internal-error", "guest-panicked":
		return Status{State: Failed, Reason: ReasonGuestFailed, Message: "The guest crashed (" + runState + ")."}
	case "io-error":
		return Status{State: Paused, Reason: "IOError", Message: "A disk failed and QEMU paused the guest; is the host's disk full?"}
	}
	return Status{State: Paused, Reason: "Paused", Message: "The guest is " + runState + "."}
}

// finish ends QEMU, frees the link and notes the end. The status says how the
// guest ended.
func (g *Guest) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	select {
	case <-g.proc.Done():
	default:
		if err := g.command(ctx, "quit"); err != nil && !errors.Is(err, qmp.ErrClosed) {
			g.log.Warn("QEMU doesn't quit", "err", err)
		}
	}
	select {
	case <-g.proc.Done():
	case <-ctx.Done():
		if err := g.proc.Kill(); err != nil {
			g.log.Error("QEMU can't be killed", "err", err)
		}
		<-g.proc.Done()
	}
	g.mon.Close()
	g.hub.Close()
	g.proc.Release()
	g.detach()
	g.mu.Lock()
	if g.asked != "" {
		g.status.State, g.status.Reason, g.status.Message = Ended, g.asked, ""
	}
	g.status.Ended = time.Now()
	s := g.status
	g.mu.Unlock()
	g.noteEnd(s)
	g.log.Info("guest ended", "state", s.State, "reason", s.Reason, "message", s.Message)
	close(g.over)
	select {
	case g.news <- struct{}{}:
	default:
	}
}

func (g *Guest) noteEnd(s Status) {
	if err := save(g.dir, endFile, end(s)); err != nil {
		g.log.Error("the guest's end can't be noted", "err", err)
	}
}

func (g *Guest) detach() {
	if g.m.cfg.Links == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if err := g.m.cfg.Links.Detach(ctx, g.Spec.ID); err != nil {
		g.log.Error("the guest's link can't be removed", "err", err)
	}
}

// release stops watching; the guest runs on.
func (g *Guest) release() {
	g.letOnce.Do(func() { close(g.let) })
	<-g.gone
	select {
	case <-g.over:
		return
	default:
	}
	g.mon.Close()
	g.hub.Close()
	g.proc.Release()
}

// Remove deletes an ended guest's folder and forgets it.
func (g *Guest) Remove() error {
	if !g.Status().Over() {
		return fmt.Errorf("remove the guest %s/%s: it is still running", g.Spec.Namespace, g.Spec.Name)
	}
	<-g.over
	g.detach() // again, in case it failed
	if err := erase(g.dir); err != nil {
		return fmt.Errorf("remove the guest %s/%s: %w", g.Spec.Namespace, g.Spec.Name, err)
	}
	g.m.forget(g.Spec.ID)
	return nil
}
