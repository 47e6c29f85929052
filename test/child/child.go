// Package child runs processes of a test and keeps what they print.
//
// In: a command. Out: its output, its end. Who starts one ends it.
package child

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Output collects what processes print.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Process is one that runs, or has ended.
type Process struct {
	*exec.Cmd
	// Ended is closed when it has: how is in ProcessState.
	Ended chan struct{}
}

// Start begins a command that prints to out.
func Start(cmd *exec.Cmd, out *Output) (*Process, error) {
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Cmd: cmd, Ended: make(chan struct{})}
	go func() {
		defer close(p.Ended)
		_ = cmd.Wait() // how it ended is in its state
	}()
	return p, nil
}

// Signal tells the process, and whether it ended in time; last is sent to one that didn't,
// and must end it.
func (p *Process) Signal(s, last os.Signal, within time.Duration) (inTime bool) {
	_ = p.Process.Signal(s) // it may have ended
	select {
	case <-p.Ended:
		return true
	case <-time.After(within):
		_ = p.Process.Signal(last) // likewise
		<-p.Ended
		return false
	}
}
