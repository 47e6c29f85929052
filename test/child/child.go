// Package child runs processes of a test.
//
// In: a command. Out: what it prints, its end. Who starts one ends it.
package child

import (
	"io"
	"os"
	"os/exec"
	"time"
)

// Process is one that runs, or has ended.
type Process struct {
	*exec.Cmd
	// Ended is closed when it has: how is in ProcessState.
	Ended chan struct{}
}

// Start begins a command that prints to out.
func Start(cmd *exec.Cmd, out io.Writer) (*Process, error) {
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
