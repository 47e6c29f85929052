package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/spec"
)

// give notes why nothing could be made of a folder, and says what helps.
func (m *Manager) give(id string, err error) error {
	m.mu.Lock()
	m.unknown[id] = err
	m.mu.Unlock()
	return cmp.Or(m.Unknown(id), m.Lost(id), err)
}

// Unknown gives why Adopt couldn't take over a guest that may run still; nil: there is none.
func (m *Manager) Unknown(id string) error {
	why, pids, err := m.unadopted(id)
	if why == nil || err == nil && len(pids) == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("%w; mend its files and restart the agent, or end its QEMU %v", why, pids), err)
}

// Lost gives why Adopt could make nothing of a guest's folder in which nothing runs; nil:
// there is no such folder. It stays as it is, for what its disks hold may be missed.
func (m *Manager) Lost(id string) error {
	why, pids, err := m.unadopted(id)
	if why == nil || err != nil || len(pids) > 0 {
		return nil
	}
	return fmt.Errorf("%w; nothing runs there: save what you need of the folder %s, then remove it", why, filepath.Join(m.cfg.Dir, id))
}

// unadopted gives why Adopt could make nothing of a folder, if it is there still, and who
// works in it.
func (m *Manager) unadopted(id string) (why error, pids []int, err error) {
	m.mu.Lock()
	why = m.unknown[id]
	m.mu.Unlock()
	if why == nil {
		return nil, nil, nil
	}
	pids, err = process.InDirectory(filepath.Join(m.cfg.Dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	return why, pids, err
}

// UnknownGuests gives the ids of the guests that Unknown knows of.
func (m *Manager) UnknownGuests() []string {
	m.mu.Lock()
	ids := slices.Sorted(maps.Keys(m.unknown))
	m.mu.Unlock()
	return slices.DeleteFunc(ids, func(id string) bool { return m.Unknown(id) == nil })
}

// EndUnknown ends the QEMU of a guest that Adopt couldn't take over, as Guest.Stop does,
// and frees its link. The folder stays. Where its spec.json is whole it is that of an
// ended guest for the next Adopt.
func (m *Manager) EndUnknown(ctx context.Context, id string, grace time.Duration) error {
	if m.Unknown(id) == nil {
		return nil
	}
	dir := filepath.Join(m.cfg.Dir, id)
	qemus, err := qemusIn(dir)
	for _, p := range qemus {
		g := m.newGuest(spec.Spec{ID: id}, dir)
		g.proc = p
		err = errors.Join(err, g.end(ctx, grace))
	}
	if err != nil {
		return fmt.Errorf("end the unknown guest %s: %w", id, err)
	}
	return nil
}

// end stops a guest of which nothing is known but its process and its folder.
func (g *Guest) end(ctx context.Context, grace time.Duration) error {
	dialCtx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := g.connect(dialCtx); err != nil {
		if ctx.Err() != nil {
			g.proc.Release()
			return ctx.Err() // the next daemon finds it
		}
		g.log.Warn("QEMU doesn't answer and is killed", "pid", g.proc.ID.PID, "err", err)
		if err := killed(g.proc); err != nil {
			return err
		}
		g.detach()
		return nil
	}
	go g.watch()
	defer g.release()
	return g.Stop(ctx, grace)
}
