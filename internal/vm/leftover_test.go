package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/spec"
)

// copyProgram makes a program with another name.
func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	path, err := exec.LookPath(from)
	if err != nil {
		t.Skip(err)
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(to, b, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLeftover shows that QEMUs are found by where they work, also when their folder
// is gone, and that nobody else's processes are.
func TestLeftover(t *testing.T) {
	bin, guests := t.TempDir(), filepath.Join(t.TempDir(), "guests")
	qemu, other := filepath.Join(bin, "qemu-system-test"), filepath.Join(bin, "shell")
	copyProgram(t, "sleep", qemu)
	copyProgram(t, "sleep", other)
	run := func(program, dir string) *exec.Cmd {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "60")
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait()
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
		return cmd
	}
	known := run(qemu, filepath.Join(guests, "a"))
	gone := run(qemu, filepath.Join(guests, "b"))
	run(other, filepath.Join(guests, "a"))
	run(qemu, guests+"-of-another")
	if err := os.RemoveAll(filepath.Join(guests, "b")); err != nil {
		t.Fatal(err)
	}
	want := []int{known.Process.Pid, gone.Process.Pid}
	slices.Sort(want)
	got, err := KillLeftover(guests)
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("found %v, %v; want %v", got, err, want)
	}
	if got, err := Leftover(guests); err != nil || len(got) > 0 {
		t.Errorf("left: %v, %v", got, err)
	}
}

// sleepIn starts a program that sleeps, in a guest's folder, until the test ends.
func sleepIn(t *testing.T, program, dir string) *process.Process {
	t.Helper()
	cmd := exec.Command(program, "60")
	cmd.Dir = dir
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Kill()
		<-p.Done()
	})
	return p
}

// TestAdoptInterrupted shows that a daemon that is told to stop while it looks for
// guests ends none of them (VM-06).
func TestAdoptInterrupted(t *testing.T) {
	bin, guests := t.TempDir(), t.TempDir()
	qemu := filepath.Join(bin, "qemu-system-test")
	copyProgram(t, "sleep", qemu)
	dir := filepath.Join(guests, "a")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := sleepIn(t, qemu, dir)
	for _, socket := range []string{qmpSocket, ttySocket} {
		l, err := listen(dir, socket) // nobody answers
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	for _, err := range []error{save(dir, specFile, spec.Spec{ID: "a"}), save(dir, processFile, running{Identity: p.ID})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(Config{Dir: guests, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.Adopt(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
	if pids, err := Leftover(guests); err != nil || !slices.Equal(pids, []int{p.ID.PID}) {
		t.Errorf("running: %v, %v; want %d", pids, err, p.ID.PID)
	}
	if _, err := os.Stat(filepath.Join(dir, endFile)); err == nil {
		t.Error("the guest is noted as ended")
	}
}

// TestAdoptUnreadable shows that a guest whose files can't be read now keeps its process,
// its folder and its link (VM-06).
func TestAdoptUnreadable(t *testing.T) {
	guests := t.TempDir()
	var running []*process.Process
	for id, unreadable := range map[string]string{"a": specFile, "b": processFile} {
		dir := filepath.Join(guests, id)
		if err := os.MkdirAll(filepath.Join(dir, unreadable), 0o700); err != nil { // a folder is no file
			t.Fatal(err)
		}
		if unreadable != specFile {
			if err := save(dir, specFile, spec.Spec{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		running = append(running, sleepIn(t, "sleep", dir))
	}
	links := &notedLinks{ids: []string{"a", "b", "gone"}}
	m, err := Open(Config{Dir: guests, Links: links, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Adopt(t.Context()); err == nil {
		t.Error("no error tells of the guests")
	}
	if !slices.Equal(links.detached, []string{"gone"}) {
		t.Errorf("links removed: %v, want that of the guest that is gone", links.detached)
	}
	for _, p := range running {
		select {
		case <-p.Done():
			t.Errorf("process %d was ended", p.ID.PID)
		default:
		}
	}
	if m.Unknown("a") == nil || m.Unknown("b") == nil || m.Unknown("gone") != nil {
		t.Errorf("unknown: %v, %v, %v", m.Unknown("a"), m.Unknown("b"), m.Unknown("gone"))
	}
	for _, p := range running {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
	}
	if err := errors.Join(m.Unknown("a"), m.Unknown("b")); err != nil {
		t.Errorf("although nothing runs: %v", err)
	}
	if left, err := os.ReadDir(guests); err != nil || len(left) != 2 {
		t.Errorf("folders left: %v, %v", left, err)
	}
}

// notedLinks has links and notes which are removed.
type notedLinks struct {
	Links
	ids, detached []string
}

func (l *notedLinks) List() ([]string, error) { return l.ids, nil }

func (l *notedLinks) Detach(_ context.Context, id string) error {
	l.detached = append(l.detached, id)
	return nil
}
