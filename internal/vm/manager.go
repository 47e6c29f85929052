package vm

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"portico.dev/portico/internal/vm/accel"
	"portico.dev/portico/internal/vm/link"
)

// Links gives guests their network; *link.Manager does.
type Links interface {
	// Attach makes or adopts the guest's link and opens its tap for QEMU.
	Attach(ctx context.Context, g link.Guest) (*os.File, error)
	// Adopt resumes a link whose tap QEMU still holds.
	Adopt(ctx context.Context, g link.Guest) error
	// Detach removes a link; one that isn't there is no error.
	Detach(ctx context.Context, id string) error
	// List gives the ids of all links that are there.
	List() ([]string, error)
}

// Images finds files in images; *image.Store does.
type Images interface {
	Resolve(ctx context.Context, ref, path string) (string, error)
}

// Config is what a Manager needs.
type Config struct {
	Dir    string // the folder of guests' folders
	Accel  accel.Choice
	Images Images
	Links  Links // nil: guests have no network
	Log    *slog.Logger

	QEMU    string // the program, by default qemu-system-x86_64
	QemuImg string // the program, by default qemu-img
}

// Manager runs this node's guests.
type Manager struct {
	cfg Config

	mu      sync.Mutex        // guards the following
	guests  map[string]*Guest // nil while Start is at work
	unknown map[string]error  // why Adopt couldn't tell what is in a folder
}

// Open prepares a Manager; call Adopt before Start.
func Open(cfg Config) (*Manager, error) {
	if cfg.QEMU == "" {
		cfg.QEMU = "qemu-system-x86_64"
	}
	if cfg.QemuImg == "" {
		cfg.QemuImg = "qemu-img"
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the guests' folder %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the guests' folder: %w", err)
	}
	return &Manager{cfg: cfg, guests: map[string]*Guest{}, unknown: map[string]error{}}, nil
}

// Guests gives all guests, also those that have ended and aren't removed.
func (m *Manager) Guests() []*Guest {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Guest, 0, len(m.guests))
	for _, g := range m.guests {
		if g != nil { // nil: just starting
			out = append(out, g)
		}
	}
	return out
}

// Guest finds a guest by its id.
func (m *Manager) Guest(id string) (*Guest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.guests[id]
	return g, ok && g != nil
}

// Console opens a session at a guest's serial console.
func (m *Manager) Console(_ context.Context, id string) (io.ReadWriteCloser, error) {
	g, ok := m.Guest(id)
	if !ok {
		return nil, fmt.Errorf("open the console of %s: %w", id, ErrNotRunning)
	}
	return g.Console()
}

// Close lets go of all guests and waits for what watches them; they run on.
func (m *Manager) Close() {
	for _, g := range m.Guests() {
		g.release()
	}
}

func (m *Manager) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.guests, id)
}

func (m *Manager) remember(g *Guest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guests[g.Spec.ID] = g
}
