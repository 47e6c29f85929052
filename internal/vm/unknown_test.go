package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/spec"
)

// fill makes a guest's folder of files.
func fill(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAdoptDamaged shows that a folder whose files are damaged isn't taken for a half-made
// guest's: it stays with its disks, and what helps is said (VM-06).
func TestAdoptDamaged(t *testing.T) {
	guests := t.TempDir()
	whole := `{"id": "whole"}`
	damaged := map[string]map[string]string{
		"broken":  {specFile: "{", "disk-root.raw": "data"},
		"empty":   {specFile: "", processFile: "{}"},
		"copy":    {specFile: whole, processFile: "{}", "disk-root.raw": "data"},
		"without": {"disk-root.raw": "data"},
		"process": {specFile: `{"id": "process"}`, processFile: "{", "disk-root.raw": "data"},
	}
	for id, files := range damaged {
		fill(t, filepath.Join(guests, id), files)
	}
	fill(t, filepath.Join(guests, "never"), map[string]string{specFile + ".new": "{"})
	fill(t, filepath.Join(guests, "whole"), map[string]string{specFile: whole})
	fill(t, filepath.Join(guests, "deleted"+erasedSuffix), map[string]string{"disk-root.raw": "data"}) // in part
	m, err := Open(Config{Dir: guests, QEMU: "true", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	err = m.Adopt(t.Context())
	for id, files := range damaged {
		dir := filepath.Join(guests, id)
		for name, content := range files {
			if b, readErr := os.ReadFile(filepath.Join(dir, name)); string(b) != content || readErr != nil {
				t.Errorf("%s: %s is %q, %v", id, name, b, readErr)
			}
		}
		if remedy := "save what you need of the folder " + dir + ", then remove it"; err == nil || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%s: the error doesn't say %q: %v", id, remedy, err)
		}
		if m.Unknown(id) != nil || m.Lost(id) == nil {
			t.Errorf("%s: unknown %v, lost %v", id, m.Unknown(id), m.Lost(id))
		}
		if _, err := m.Start(t.Context(), spec.Spec{ID: id}); Reason(err) != ReasonDamaged {
			t.Errorf("%s: started over it: %v", id, err)
		}
	}
	if left, err := os.ReadDir(guests); err != nil || len(left) != len(damaged) {
		t.Errorf("half-made ones are left: %v, %v", left, err)
	}
	if err := os.RemoveAll(filepath.Join(guests, "broken")); err != nil {
		t.Fatal(err)
	}
	if err := m.Lost("broken"); err != nil {
		t.Errorf("its folder is gone: %v", err)
	}
}

// TestEndUnknown shows which processes end with an unknown guest: QEMUs in its folder, and
// nobody else's (VM-06).
func TestEndUnknown(t *testing.T) {
	guests := t.TempDir()
	bin := t.TempDir()
	qemu, copier := filepath.Join(bin, "qemu-system-test"), filepath.Join(bin, "qemu-img")
	copyProgram(t, "sleep", qemu)
	copyProgram(t, "sleep", copier)
	fill(t, filepath.Join(guests, "a"), map[string]string{specFile: "{", "disk-root.raw": "data"})
	fill(t, filepath.Join(guests, "b"), map[string]string{specFile: "{"})
	mine := sleepIn(t, qemu, filepath.Join(guests, "a"))
	others := []*process.Process{
		sleepIn(t, "sleep", filepath.Join(guests, "a")), // somebody's shell
		sleepIn(t, copier, filepath.Join(guests, "a")),  // saves what a disk holds
		sleepIn(t, qemu, filepath.Join(guests, "b")),
		sleepIn(t, qemu, t.TempDir()),
	}
	links := &notedLinks{ids: []string{"a", "b"}}
	m, err := Open(Config{Dir: guests, Links: links, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Adopt(t.Context()); err == nil || len(links.detached) > 0 {
		t.Errorf("adopted with %v, links removed: %v", err, links.detached)
	}
	if got := m.UnknownGuests(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("unknown: %v", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.EndUnknown(ended, "a", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("by a daemon that is to end: %v", err)
	}
	if isDone(mine) {
		t.Fatal("a daemon that is to end has ended it")
	}
	if err := m.EndUnknown(t.Context(), "a", time.Minute); err != nil {
		t.Error(err)
	}
	if !isDone(mine) || !slices.Equal(links.detached, []string{"a"}) {
		t.Errorf("ended: %v, links removed: %v", isDone(mine), links.detached)
	}
	for i, p := range others {
		if isDone(p) {
			t.Errorf("process %d of the others was ended", i)
		}
	}
	if _, err := os.Stat(filepath.Join(guests, "a", "disk-root.raw")); err != nil {
		t.Error(err)
	}
}

func isDone(p *process.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// TestUnknownGuestStops shows that a real guest of which nothing can be read is asked to
// power off, and does (VM-06, VM-07).
func TestUnknownGuestStops(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guests")
	m := daemon(t, dir)
	g, err := m.Start(t.Context(), testSpec("unknown"))
	if err != nil {
		t.Fatal(err)
	}
	attach(t, g).expect(t, "Portico test guest")
	m.Close()
	if err := os.WriteFile(filepath.Join(g.dir, specFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, err := Open(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Adopt(t.Context()); err == nil || next.Unknown("unknown") == nil {
		t.Fatalf("adopted with %v; unknown: %v", err, next.Unknown("unknown"))
	}
	if err := next.EndUnknown(t.Context(), "unknown", bootTime); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Find(g.proc.ID); !errors.Is(err, process.ErrGone) {
		t.Errorf("QEMU still runs: %v", err)
	}
	if log, err := os.ReadFile(filepath.Join(g.dir, ttyLog)); err != nil || !strings.Contains(string(log), "power off") {
		t.Errorf("it didn't power off by itself: %v\n%s", err, log)
	}
	if next.Unknown("unknown") != nil || next.Lost("unknown") == nil {
		t.Errorf("afterwards unknown: %v, lost: %v", next.Unknown("unknown"), next.Lost("unknown"))
	}
}

// TestAdoptUnlisted shows that a folder that can't be listed isn't taken for an empty one.
func TestAdoptUnlisted(t *testing.T) {
	guests := filepath.Join(t.TempDir(), "guests")
	m, err := Open(Config{Dir: guests, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(guests), os.WriteFile(guests, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := m.Adopt(t.Context()); !errors.Is(err, ErrUnlisted) {
		t.Errorf("adopted with %v", err)
	}
}
