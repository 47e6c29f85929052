package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico.dev/portico/internal/vm/accel"
	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/qmp"
	"portico.dev/portico/internal/vm/spec"
	"portico.dev/portico/test/guest"
)

// bootTime is how long a guest may take under emulation on a busy machine.
const bootTime = 90 * time.Second

// artifacts builds the test guest once for all tests of the package.
var artifacts = sync.OnceValues(func() (guest.Artifacts, error) {
	ctx := context.Background()
	cache, err := guest.CacheDir(ctx)
	if err != nil {
		return guest.Artifacts{}, err
	}
	return guest.Build(ctx, guest.Options{Cache: cache, Logf: func(string, ...any) {}})
})

type fixedImages guest.Artifacts

func (f fixedImages) Resolve(_ context.Context, _, path string) (string, error) {
	switch path {
	case guest.KernelPath:
		return f.Kernel, nil
	case guest.InitrdPath:
		return f.Initrd, nil
	}
	return "", fmt.Errorf("no file %s", path)
}

// daemon is a Manager on a folder that survives it; its guests have no network.
func daemon(t *testing.T, dir string) *Manager {
	t.Helper()
	return daemonWith(t, dir, nil)
}

func daemonWith(t *testing.T, dir string, links Links) *Manager {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is missing: apt-get install --no-install-recommends qemu-system-x86 qemu-utils")
	}
	a, err := artifacts()
	if errors.Is(err, guest.ErrNoKernel) {
		t.Skipf("no kernel for a guest: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	choice, err := accel.Detect(accel.Auto)
	if err != nil {
		t.Fatal(err)
	}
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
	m, err := Open(Config{Dir: dir, Accel: choice, Images: fixedImages(a), Links: links, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever the test left
		for _, g := range m.Guests() {
			select {
			case <-g.let:
			default:
				_ = g.Stop(context.Background(), 0)
			}
		}
	})
	return m
}

func testSpec(id string) spec.Spec {
	return spec.Spec{
		ID: id, Namespace: "default", Name: "vm-" + id, MAC: "02:70:6f:00:00:01",
		FirmwareUUID: "3d0a5b70-0000-4000-8000-000000000001", MemoryMiB: guest.MemoryMiB,
		CPU:    spec.CPU{Sockets: 1, Cores: 1, Threads: 1},
		Kernel: &spec.Kernel{Image: guest.ImageName, Path: guest.KernelPath, Initrd: guest.InitrdPath, Args: guest.KernelArgs + " hostname=probe"},
	}
}

// terminal reads a console until it shows text.
type terminal struct {
	io.ReadWriteCloser
	seen bytes.Buffer
}

func attach(t *testing.T, g *Guest) *terminal {
	t.Helper()
	c, err := g.Console()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &terminal{ReadWriteCloser: c}
}

func (c *terminal) expect(t *testing.T, text string) {
	t.Helper()
	late := time.AfterFunc(bootTime, func() { c.Close() })
	defer late.Stop()
	buf := make([]byte, 4096)
	for {
		if i := bytes.Index(c.seen.Bytes(), []byte(text)); i >= 0 {
			c.seen.Next(i + len(text))
			return
		}
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("the console ended before %q: %v; it showed:\n%s", text, err, c.seen.String())
		}
		c.seen.Write(buf[:n])
	}
}

func (c *terminal) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		t.Fatal(err)
	}
}

func over(t *testing.T, g *Guest) Status {
	t.Helper()
	select {
	case <-g.over:
	case <-time.After(bootTime):
		t.Fatalf("the guest isn't over: %+v", g.Status())
	}
	return g.Status()
}

// gone checks that nothing is left of an ended guest once it is removed.
func gone(t *testing.T, m *Manager, g *Guest) {
	t.Helper()
	pid := g.proc.ID
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Find(pid); !errors.Is(err, process.ErrGone) {
		t.Errorf("QEMU still runs: %v", err)
	}
	if left, _ := os.ReadDir(m.cfg.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, ok := m.Guest(g.Spec.ID); ok {
		t.Error("the manager still knows it")
	}
}

// VM-02 (a reboot keeps the guest), VM-03 (serial console, kernelBoot), VM-06 (it
// outlives the daemon), VM-07 (ACPI stop).
func TestGuestLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20), "guests") // longer than a socket's name may be
	m := daemon(t, dir)
	began := time.Now()
	g, err := m.Start(t.Context(), testSpec("life"))
	if err != nil {
		t.Fatal(err)
	}
	c := attach(t, g)
	c.expect(t, "Portico test guest")
	t.Logf("boot to the prompt: %.1f s, RSS %s", time.Since(began).Seconds(), rss(g.proc.ID.PID))
	if s := g.Status(); s.State != Running || s.Accel.Message == "" {
		t.Errorf("status %+v", s)
	}
	if _, err := m.Start(t.Context(), testSpec("life")); !errors.Is(err, ErrExists) {
		t.Errorf("the second start: %v", err)
	}
	c.say(t, "hostname")
	c.expect(t, "\nprobe")
	c.say(t, "reboot")
	c.expect(t, "Portico test guest") // the same QEMU boots again
	pid := g.proc.ID

	m.Close()
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the console of a closed daemon: %v", err)
	}
	m = daemon(t, dir)
	g, ok := m.Guest("life")
	if !ok || g.proc.ID != pid || g.Status().State != Running {
		t.Fatalf("adopted %+v, want the QEMU %+v running", g, pid)
	}
	c = attach(t, g)
	c.expect(t, "Portico test guest") // scrollback
	c.say(t, "hostname")
	c.expect(t, "\nprobe")

	began = time.Now()
	if err := g.Stop(t.Context(), bootTime); err != nil {
		t.Fatal(err)
	}
	t.Logf("power button to the end: %.1f s", time.Since(began).Seconds())
	if s := g.Status(); s.State != Ended || s.Reason != ReasonStopped {
		t.Errorf("after the stop: %+v", s)
	}
	c.expect(t, "power off") // by itself, not by a kill
	gone(t, m, g)
}

// VM-06: the ways in which guests end unasked, seen by a daemon or after it.
func TestGuestEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guests")
	m := daemon(t, dir)
	g, err := m.Start(t.Context(), testSpec("ends"))
	if err != nil {
		t.Fatal(err)
	}
	c := attach(t, g)
	c.expect(t, "Portico test guest")
	c.say(t, "poweroff")
	if s := over(t, g); s.State != Ended || s.Reason != ReasonPoweredOff || s.Ended.Before(s.Started) {
		t.Errorf("a guest that powered off: %+v", s)
	}
	if _, err := g.Console(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("its console: %v", err)
	}
	m.Close()
	m = daemon(t, dir) // the end outlives the daemon too
	g, ok := m.Guest("ends")
	if !ok || g.Status().Reason != ReasonPoweredOff {
		t.Fatalf("adopted %+v", g)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}

	// The same while no daemon runs: QEMU keeps the end for the next one.
	if g, err = m.Start(t.Context(), testSpec("away")); err != nil {
		t.Fatal(err)
	}
	attach(t, g).expect(t, "Portico test guest")
	m.Close()
	powerOffUnseen(t, g.dir)
	m = daemon(t, dir)
	if g, ok = m.Guest("away"); !ok || g.Status().State != Ended || g.Status().Reason != ReasonPoweredOff {
		t.Fatalf("adopted %+v, want one that powered off", g)
	}
	gone(t, m, g)

	if g, err = m.Start(t.Context(), testSpec("killed")); err != nil {
		t.Fatal(err)
	}
	if err := g.proc.Kill(); err != nil {
		t.Fatal(err)
	}
	if s := over(t, g); s.State != Failed || s.Reason != ReasonQEMUFailed || !strings.Contains(s.Message, "killed") {
		t.Errorf("a QEMU that was killed: %+v", s)
	}
	gone(t, m, g)

	// A guest that doesn't hear the button, here because it has just begun to boot.
	if g, err = m.Start(t.Context(), testSpec("deaf")); err != nil {
		t.Fatal(err)
	}
	if err := g.Stop(t.Context(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s := g.Status(); s.Reason != ReasonKilled {
		t.Errorf("after the grace period: %+v", s)
	}
	gone(t, m, g)
}

// powerOffUnseen types the command without a Manager and waits for QEMU to know.
func powerOffUnseen(t *testing.T, dir string) {
	t.Helper()
	tty, err := dial(dir, ttySocket)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if _, err := io.WriteString(tty, "poweroff\n"); err != nil {
		t.Fatal(err)
	}
	conn, err := dial(dir, qmpSocket)
	if err != nil {
		t.Fatal(err)
	}
	mon, err := qmp.New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer mon.Close()
	var got struct{ Status string }
	for got.Status != "shutdown" {
		if err := mon.Execute(t.Context(), "query-status", nil, &got); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// VM-06: what the next daemon finds after crashes and a restart of the host.
func TestAdoptStaleState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guests")
	m := daemon(t, dir)
	note := func(id string, r *running) {
		t.Helper()
		d := filepath.Join(dir, id)
		if err := errors.Join(os.MkdirAll(d, 0o700), save(d, specFile, testSpec(id))); err != nil {
			t.Fatal(err)
		}
		if r != nil {
			if err := save(d, processFile, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	self, err := process.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	note("half", nil)
	note("other-process", &running{Identity: process.Identity{PID: self.PID, Start: self.Start + 7, Boot: self.Boot}})
	note("rebooted", &running{Identity: process.Identity{PID: self.PID, Start: self.Start, Boot: "another"}})
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	qemu := filepath.Join(t.TempDir(), "qemu-system-test")
	copyProgram(t, "sleep", qemu)
	stray := exec.Command(qemu, "300") // a QEMU that was started and never noted
	stray.Dir = filepath.Join(dir, "half")
	p, err := process.Start(stray)
	if err != nil {
		t.Fatal(err)
	}

	m.Close()
	m = daemon(t, dir)
	for id, want := range map[string]string{"other-process": ReasonQEMUFailed, "rebooted": ReasonHostRebooted} {
		g, ok := m.Guest(id)
		if !ok || g.Status().State != Failed || g.Status().Reason != want {
			t.Errorf("%s: %+v, want Failed for %s", id, g, want)
			continue
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Error("the stray process runs on")
		_ = p.Kill()
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFailedStartsLeaveNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guests")
	m := daemon(t, dir)
	wide := testSpec("wide")
	wide.CPU.Model = "no-such-model"
	image := testSpec("image")
	image.Kernel.Path = "/absent"
	badDisk := testSpec("disk")
	badDisk.Disks = []spec.Disk{{Name: "root", Path: filepath.Join(t.TempDir(), "absent.img"), Bus: spec.VirtIO}}
	for reason, s := range map[string]spec.Spec{ReasonQEMUFailed: wide, ReasonNoImage: image, ReasonBadDisk: badDisk} {
		_, err := m.Start(t.Context(), s)
		if Reason(err) != reason {
			t.Errorf("%s: got reason %s (%v), want %s", s.ID, Reason(err), err, reason)
		}
		if reason == ReasonQEMUFailed && !strings.Contains(err.Error(), "no-such-model") {
			t.Errorf("%s: the error hides QEMU's reason: %v", s.ID, err)
		}
	}
	m.cfg.QEMU = "qemu-system-nothing"
	if _, err := m.Start(t.Context(), testSpec("none")); Reason(err) != ReasonNoQEMU || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("without QEMU: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 || len(m.Guests()) > 0 {
		t.Errorf("left behind: %v, %v", left, m.Guests())
	}
}

func rss(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}
