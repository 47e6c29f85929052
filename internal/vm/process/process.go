package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is watched until it ends or Release is called.
type Process struct {
	ID    Identity
	pidfd *os.File
	cmd   *exec.Cmd // nil: somebody else's child

	done     chan struct{} // closed when the process has ended
	released chan struct{} // closed when nobody watches any more
	exit     string        // how it ended; set before done is closed

	once sync.Once
}

// Start runs cmd in a session of its own, so that no signal to the daemon's
// group and no end of its terminal reaches it.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// It can't vanish before Wait is called: it is our child.
	id, err := Identify(cmd.Process.Pid)
	var p *Process
	if err == nil {
		p, err = watch(id, cmd)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return p, nil
}

// Find watches a process that an earlier daemon started; ErrGone if it isn't there.
func Find(id Identity) (*Process, error) {
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	if boot != id.Boot {
		return nil, fmt.Errorf("process %d of an earlier boot: %w", id.PID, ErrGone)
	}
	return watch(id, nil)
}

func watch(id Identity, cmd *exec.Cmd) (*Process, error) {
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", id.PID, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", id.PID, err)
	}
	p := &Process{
		ID: id, pidfd: os.NewFile(uintptr(fd), "pidfd"), cmd: cmd,
		done: make(chan struct{}), released: make(chan struct{}),
	}
	// The descriptor holds the process that has the id now: is it ours?
	if now, err := startTime(id.PID); cmd == nil && (err != nil || now != id.Start) {
		p.pidfd.Close()
		return nil, errors.Join(fmt.Errorf("process %d: %w", id.PID, ErrGone), err)
	}
	go p.wait()
	return p, nil
}

// wait uses the runtime's poller: a pidfd is readable when its process ended.
func (p *Process) wait() {
	defer close(p.released)
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
	if err != nil {
		return // Release closed the descriptor
	}
	p.exit = "it ended while it was somebody else's child"
	if p.cmd != nil {
		_ = p.cmd.Wait()
		p.exit = p.cmd.ProcessState.String()
	}
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how it ended; it waits for the end.
func (p *Process) Exit() string {
	<-p.done
	return p.exit
}

// Kill ends the process at once (SIGKILL). One that has ended is no error.
func (p *Process) Kill() error {
	var err error
	raw, rawErr := p.pidfd.SyscallConn()
	if rawErr != nil {
		return fmt.Errorf("kill process %d: %w", p.ID.PID, rawErr) // released
	}
	ctlErr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err == nil && ctlErr != nil {
		return fmt.Errorf("kill process %d: %w", p.ID.PID, ctlErr)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.ID.PID, err)
	}
	return nil
}

// Release stops watching; a process that runs goes on running. It waits for
// the watcher.
func (p *Process) Release() {
	p.once.Do(func() { p.pidfd.Close() })
	<-p.released
}
