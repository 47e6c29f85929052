package machines

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"portico.dev/portico/internal/node"
	"portico.dev/portico/internal/vm"
	"portico.dev/portico/internal/vm/process"
)

// VM-06: a guest whose files are damaged is unknown as long as its QEMU runs, and lost then.
func TestDamagedGuest(t *testing.T) {
	vmi, guests := testInstance(), t.TempDir()
	dir := filepath.Join(guests, string(vmi.UID))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "spec.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	qemu := filepath.Join(t.TempDir(), "qemu-system-test")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	b, err := os.ReadFile(sleep)
	if err == nil {
		err = os.WriteFile(qemu, b, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(qemu, "300")
	cmd.Dir = dir
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = p.Kill()
		<-p.Done()
	}()
	manager, err := vm.Open(vm.Config{Dir: guests, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Adopt(t.Context()); err == nil {
		t.Fatal("adopted")
	}
	m := New(Config{VM: manager, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
	defer m.Close()
	if l, err := m.Find(testPod(vmi)); l != nil || err == nil || errors.Is(err, node.ErrLost) {
		t.Errorf("while it runs: %v, %v", l, err)
	}
	if got := m.Unknown(); len(got) != 1 || got[0] != vmi.UID {
		t.Errorf("unknown: %v", got)
	}
	if err := m.EndUnknown(t.Context(), vmi.UID, time.Second); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if l, err := m.Find(testPod(vmi)); l != nil || !errors.Is(err, node.ErrLost) || !strings.Contains(err.Error(), dir) {
		t.Errorf("afterwards: %v, %v", l, err)
	}
}
