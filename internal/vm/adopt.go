package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/spec"
)

// Adopt finds the guests that an earlier daemon left: it takes over those that
// run, notes the end of those that don't, and removes what was half made. An
// error says what could not be set right, and what helps; the rest is done all the
// same, but with ErrUnlisted nothing was.
func (m *Manager) Adopt(ctx context.Context) error {
	dirs, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnlisted, err)
	}
	var errs []error
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if strings.HasSuffix(d.Name(), erasedSuffix) {
			errs = append(errs, os.RemoveAll(filepath.Join(m.cfg.Dir, d.Name())))
			continue
		}
		g, err := m.adopt(ctx, filepath.Join(m.cfg.Dir, d.Name()))
		if err != nil {
			err = fmt.Errorf("adopt the guest %s: %w", d.Name(), err)
		}
		if g != nil {
			m.remember(g)
		} else if err != nil {
			err = m.give(d.Name(), err)
		}
		errs = append(errs, err)
	}
	if ctx.Err() != nil {
		// Which guests run isn't known, so no link may be taken from any.
		return errors.Join(append(errs, fmt.Errorf("adopt guests: %w", context.Cause(ctx)))...)
	}
	return errors.Join(append(errs, m.sweepLinks(ctx))...)
}

// adopt looks at one guest's folder. No guest and no error: it was half made.
func (m *Manager) adopt(ctx context.Context, dir string) (*Guest, error) {
	var s spec.Spec
	err := restore(dir, specFile, &s)
	if errors.Is(err, fs.ErrNotExist) && bare(dir) {
		return nil, m.clear(dir)
	}
	if err == nil && s.ID != filepath.Base(dir) {
		err = fmt.Errorf("read %s: it is the guest %q's", filepath.Join(dir, specFile), s.ID)
	}
	if err != nil {
		return nil, err // it is no half-made one: its disks are here, and its QEMU may run
	}
	g := m.newGuest(s, dir)
	var was end
	if err := restore(dir, endFile, &was); err == nil {
		return g.ended(Status(was)), killAll(dir)
	}
	var r running
	err = restore(dir, processFile, &r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, m.clear(dir) // it never ran: it is noted before it does
	}
	if err != nil {
		return nil, err
	}
	g.status = Status{Started: r.Started, Accel: r.Accel}
	g.proc, err = process.Find(r.Identity)
	if errors.Is(err, process.ErrGone) {
		return g.ended(g.epitaph(r)), nil
	}
	if err != nil {
		return nil, err
	}
	return m.resume(ctx, g)
}

// epitaph says how a guest ended while nobody watched.
func (g *Guest) epitaph(r running) Status {
	s := Status{State: Failed, Reason: ReasonQEMUFailed, Started: r.Started, Ended: time.Now(), Accel: r.Accel}
	s.Message = "QEMU ended while Portico wasn't running" + complaint(g.dir)
	if boot, err := process.BootID(); err == nil && boot != r.Boot {
		s.Reason, s.Message = ReasonHostRebooted, "The node was restarted."
	}
	return s
}

// ended makes g a guest that is over.
func (g *Guest) ended(s Status) *Guest {
	g.status = s
	g.noteEnd(s)
	close(g.gone)
	close(g.over)
	return g
}

// resume connects to a QEMU that runs. One that doesn't answer is no guest that
// anybody could stop or look after, so it is killed; but not where it is us who
// are told to stop.
func (m *Manager) resume(caller context.Context, g *Guest) (*Guest, error) {
	ctx, cancel := context.WithTimeout(caller, startTimeout)
	defer cancel()
	var got struct{ Status string }
	err := g.connect(ctx)
	if err == nil {
		if err = g.mon.Execute(ctx, "query-status", nil, &got); err != nil {
			g.mon.Close()
			g.hub.Close()
		}
	}
	if err != nil && caller.Err() != nil {
		g.proc.Release()
		return nil, nil // the next Adopt finds it
	}
	if err != nil {
		s := Status{
			State: Failed, Reason: ReasonQEMUFailed, Started: g.status.Started, Ended: time.Now(), Accel: g.status.Accel,
			Message: "QEMU didn't answer after Portico's restart and was killed: " + err.Error(),
		}
		killErr := killed(g.proc)
		return g.ended(s), killErr
	}
	if got.Status == "prelaunch" && !g.Spec.StartPaused {
		// The daemon died between the note and `cont`.
		if err := g.command(ctx, "cont"); err != nil {
			g.log.Warn("the guest can't be continued", "err", err)
		}
	}
	if m.cfg.Links != nil {
		lg, linkErr := linkGuest(g.Spec)
		if linkErr == nil {
			linkErr = m.cfg.Links.Adopt(ctx, lg)
		}
		err = linkErr // the guest runs; its network is worth an error, not its life
	}
	over := g.refresh()
	g.log.Info("guest adopted", "pid", g.proc.ID.PID, "state", g.status.State)
	if over {
		close(g.gone)
		g.finish()
		return g, err
	}
	go g.watch()
	return g, err
}

// bare reports whether nothing is in a folder but what a crash leaves before the guest's
// first file.
func bare(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != specFile+".new" })
}

// clear removes a half-made guest's folder and a QEMU in it that nobody noted.
func (m *Manager) clear(dir string) error {
	m.cfg.Log.Warn("removing a half-made guest", "dir", dir)
	return errors.Join(killAll(dir), erase(dir))
}

// erasedSuffix is at the end of the name of a folder that is being deleted.
const erasedSuffix = ".removed"

// erase deletes a guest's folder. It may be cut off at any moment: what is left then has
// another name first, so that it isn't taken for damaged, and the next Adopt deletes it.
func erase(dir string) error {
	gone := dir + erasedSuffix
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(gone)
}

// killAll ends the QEMUs that work in dir.
func killAll(dir string) error {
	qemus, err := qemusIn(dir)
	for _, p := range qemus {
		err = errors.Join(err, killed(p))
	}
	return err
}

// sweepLinks removes links of guests that don't run, but for those of which that isn't known.
func (m *Manager) sweepLinks(ctx context.Context) error {
	if m.cfg.Links == nil {
		return nil
	}
	ids, err := m.cfg.Links.List()
	if err != nil {
		return fmt.Errorf("adopt guests' links: %w", err)
	}
	var live []string
	for _, g := range m.Guests() {
		if !g.Status().Over() {
			live = append(live, g.Spec.ID)
		}
	}
	var errs []error
	for _, id := range ids {
		if !slices.Contains(live, id) && m.Unknown(id) == nil {
			errs = append(errs, m.cfg.Links.Detach(ctx, id))
		}
	}
	return errors.Join(errs...)
}
