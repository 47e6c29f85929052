package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopPatience is how long a server may take to end before it is killed.
const stopPatience = 20 * time.Second

// Process is a server's process, with what it writes in a file.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when it has
}

// Launch starts a server and notes what it says in dir/name.log. It ends with us,
// however we end. argv may begin with a program that becomes the server, with the same
// process id, such as taskset, nsenter or env.
func Launch(dir, name string, argv ...string) (*Process, error) {
	p := &Process{name: name, ended: make(chan struct{})}
	p.log = filepath.Join(dir, p.name+".log")
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	defer out.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A ctrl-C is for us alone: we end them in their order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(p.ended)
		// The signal that ends it with us comes when the thread ends that started it
		// (prctl(2), PR_SET_PDEATHSIG), and threads may end before we do.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is asked for by those who didn't want it to
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// Stop ends the process, in its own way if it does so in time.
func (p *Process) Stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone, which is the aim
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// ErrEnded says that a server ended by itself.
var ErrEnded = errors.New("it ended")

// Done waits until the process has ended by itself.
func (p *Process) Done() { <-p.ended }

// Interrupt ends the process as ctrl-C does, and waits until it has.
func (p *Process) Interrupt() {
	_ = p.cmd.Process.Signal(syscall.SIGINT) // it may be gone, which is the aim
	<-p.ended
}

// Kill ends the process at once, as a crash does.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may be gone, which is the aim
	<-p.ended
}

// Over says whether it has ended.
func (p *Process) Over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// ID is the process's number.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// StandBack has the process run only where nobody else wants to: it is to serve those that
// are measured, and not to take processors from them. The lowest nice value isn't enough: who
// has it still ends its turn while another, just woken, waits (sched(7), SCHED_IDLE).
func (p *Process) StandBack() error {
	idle := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	done := map[int]bool{}
	for before := -1; before < len(done); { // threads begin as the thread is that starts them
		before = len(done)
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.ID()))
		if err != nil {
			return fmt.Errorf("list the threads of %s: %w", p.name, err)
		}
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil || done[id] {
				continue
			}
			if err := unix.SchedSetAttr(id, idle, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("lower the priority of %s: %w", p.name, err)
			}
			done[id] = true
		}
	}
	return nil
}

// Freeze stops the process where it is, until it thaws.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(unix.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(unix.SIGCONT) }

// Wait calls ready every few milliseconds until it succeeds.
func (p *Process) Wait(ctx context.Context, patience time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-p.ended:
			return fmt.Errorf("wait for %s: %w; it said: %s", p.name, ErrEnded, p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; it said: %s", p.name, err, p.Tail())
		}
	}
}

// Tail is the end of what the process wrote.
func (p *Process) Tail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return string(bytes.TrimSpace(raw[max(0, len(raw)-most):]))
}

// Memory is what a process holds, in megabytes (proc(5), status).
type Memory struct {
	// Resident is all that is in memory.
	Resident float64
	// Anonymous is the process's own part: neither program text nor pages of mapped
	// files, which the kernel can drop.
	Anonymous float64
}

// Memory reads what the process holds now.
func (p *Process) Memory() (Memory, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.ID()))
	if err != nil {
		return Memory{}, fmt.Errorf("read the memory of %s: %w", p.name, err)
	}
	var m Memory
	for name, into := range map[string]*float64{"VmRSS:": &m.Resident, "RssAnon:": &m.Anonymous} {
		_, after, found := strings.Cut(string(raw), "\n"+name)
		line, _, _ := strings.Cut(after, "\n")
		kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 64)
		if !found || err != nil {
			return Memory{}, fmt.Errorf("read the memory of %s: %s is %q", p.name, name, line)
		}
		*into = kb / 1024
	}
	return m, nil
}

// Times are processor times of a process and its children, those that ended and those
// that live, in whole ticks of 10 ms (proc(5), stat; so on every architecture of Linux
// that Go has).
type Times struct{ User, System time.Duration }

// Total is both.
func (t Times) Total() time.Duration { return t.User + t.System }

// Minus is what was used since an earlier reading.
func (t Times) Minus(before Times) Times {
	return Times{User: t.User - before.User, System: t.System - before.System}
}

// Times reads what the process has used of processors.
func (p *Process) Times() (Times, error) {
	sum, err := readTimes(p.ID())
	if err != nil {
		return Times{}, fmt.Errorf("read the processor time of %s: %w", p.name, err)
	}
	for _, id := range p.Children() {
		if t, err := readTimes(id); err == nil { // else it has ended
			sum = Times{sum.User + t.User, sum.System + t.System}
		}
	}
	return sum, nil
}

// Children are the processes that its threads started and that live.
func (p *Process) Children() (ids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.ID())) // proc(5)
	for _, list := range lists {
		raw, _ := os.ReadFile(list) // a thread may have ended
		for _, field := range strings.Fields(string(raw)) {
			if id, err := strconv.Atoi(field); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// readTimes reads those of a process and of its children that ended.
func readTimes(id int) (Times, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
	if err != nil {
		return Times{}, err
	}
	_, after, _ := bytes.Cut(raw, []byte(") ")) // a program's name may have spaces
	fields := strings.Fields(string(after))
	const first, tick = 11, 10 * time.Millisecond
	if len(fields) < first+4 {
		return Times{}, fmt.Errorf("%q is too short", raw)
	}
	var ticks [4]time.Duration // own user and system, children's user and system
	for i := range ticks {
		n, err := strconv.ParseInt(fields[first+i], 10, 64)
		if err != nil {
			return Times{}, err
		}
		ticks[i] = time.Duration(n) * tick
	}
	return Times{User: ticks[0] + ticks[2], System: ticks[1] + ticks[3]}, nil
}

// FreePorts finds ports that nobody listens on. Another process may take one before its
// server does, which then ends; see ErrEnded.
func FreePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // after all are found, or one is found twice
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}
