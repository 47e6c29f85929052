package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopPatience is how long a server may take to end before it is killed.
const stopPatience = 20 * time.Second

// process is a server's process, with what it writes in a file.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when it has
}

// launch starts a server on the given processors (a list for taskset; "" is all). It
// ends with us, however we end.
func launch(dir, cpus string, argv ...string) (*process, error) {
	p := &process{name: filepath.Base(argv[0]), ended: make(chan struct{})}
	p.log = filepath.Join(dir, p.name+".log")
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	defer out.Close()
	if cpus != "" {
		argv = append([]string{"taskset", "-c", cpus}, argv...) // becomes argv, with the same id
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A ctrl-C is for us alone: we end them in their order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is asked for by those who didn't want it to
	}()
	return p, nil
}

func (p *process) stop() {
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

// errEnded says that a server ended by itself.
var errEnded = errors.New("it ended")

// wait calls ready every few milliseconds until it succeeds.
func (p *process) wait(ctx context.Context, patience time.Duration, ready func(context.Context) error) error {
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
			return fmt.Errorf("wait for %s: %w; it said: %s", p.name, errEnded, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; it said: %s", p.name, err, p.tail())
		}
	}
}

// tail is the end of what the process wrote.
func (p *process) tail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return string(bytes.TrimSpace(raw[max(0, len(raw)-most):]))
}

// anonymousMB is the memory that is the process's own: neither program text nor pages
// of mapped files, which the kernel can drop (proc(5), RssAnon).
func (p *process) anonymousMB() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("read the memory of %s: there is no RssAnon", p.name)
}

// processorTime is what the process has used of processors, in user and kernel mode
// (proc(5), stat; the clock's tick is 10 ms on every architecture of Linux that Go has).
func (p *process) processorTime() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the processor time of %s: %w", p.name, err)
	}
	_, after, _ := bytes.Cut(raw, []byte(") ")) // a program's name may have spaces
	fields := strings.Fields(string(after))
	const userTime, systemTime, tick = 11, 12, 10 * time.Millisecond
	if len(fields) <= systemTime {
		return 0, fmt.Errorf("read the processor time of %s: %q is too short", p.name, raw)
	}
	var ticks int64
	for _, i := range []int{userTime, systemTime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the processor time of %s: %w", p.name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// freePorts finds ports that nobody listens on. Another process may take one before its
// server does, which then ends; see startPeer.
func freePorts(n int) ([]string, error) {
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
