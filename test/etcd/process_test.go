package etcd

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a child of this test binary.
type process struct {
	cmd   *exec.Cmd
	log   *output
	ended chan struct{}
}

// output collects what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs role until the test ends.
func start(t testing.TB, role string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe", args...), log: &output{}, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in its state
	}()
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
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// stop asks it to end.
func (p *process) stop(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.kill()
		t.Errorf("it didn't end in 30 s; it printed:\n%s", p.log)
	}
}

// portico runs one command to its end and gives its output and exit code.
func portico(t testing.TB, args ...string) (string, int) {
	t.Helper()
	p := start(t, rolePortico, args...)
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		t.Fatalf("portico %s didn't end; it printed:\n%s", strings.Join(args, " "), p.log)
	}
	return p.log.String(), p.cmd.ProcessState.ExitCode()
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
