package etcd

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/test/child"
	"portico.dev/portico/test/journal"
)

// process is a child of this test binary.
type process struct {
	*child.Process
	log *journal.Log
}

// start runs role until the test ends.
func start(t testing.TB, role string, args ...string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p := &process{log: &journal.Log{}}
	var err error
	if p.Process, err = child.Start(cmd, p.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %v printed:\n%s", role, args, p.log)
		}
	})
	return p
}

// kill ends it as a power cut would.
func (p *process) kill() {
	_ = p.Cmd.Process.Kill() // it may have ended
	<-p.Ended
}

// stop asks it to end.
func (p *process) stop(t testing.TB) {
	t.Helper()
	const within = 30 * time.Second
	if !p.Signal(syscall.SIGTERM, syscall.SIGKILL, within) {
		t.Errorf("it didn't end in %v; it printed:\n%s", within, p.log)
	}
}

// portico runs one command to its end and gives its output and exit code.
func portico(t testing.TB, args ...string) (string, int) {
	t.Helper()
	p := start(t, rolePortico, args...)
	select {
	case <-p.Ended:
	case <-time.After(time.Minute):
		t.Fatalf("portico %s didn't end; it printed:\n%s", strings.Join(args, " "), p.log)
	}
	return p.log.String(), p.ProcessState.ExitCode()
}

// eventually waits until a condition holds.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !holds() {
		if time.Since(begin) > within {
			t.Fatalf("not after %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(begin)
}
