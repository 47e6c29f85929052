package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/process"
)

// netlinkCalls are the begin and the end of the system calls with which our agent hands
// transactions to nf_tables, which carries them out before they return; and hardly anything
// else: its connections to the API use read and write.
const netlinkCalls = "syscalls:sys_enter_sendto,syscalls:sys_exit_sendto,syscalls:sys_enter_sendmsg,syscalls:sys_exit_sendmsg"

const (
	// attachTime is how long perf gets to begin, which it doesn't tell.
	attachTime = time.Second
	// traceTime is how long changes are traced: long enough for a median.
	traceTime = 3 * time.Second
)

// mountTracing makes the kernel's tracing visible in this program's own mount namespace.
// Where it can't be had there are no figures of it.
func mountTracing() {
	_ = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") // or the host would see the next one
	_ = unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "")
}

// tracing is perf(1) at work on one process.
type tracing struct {
	perf *process.Process
	file string
}

// recording is perf-record(1), which looks at what the kernel noted once there is much of it.
// perf-trace(1) is woken for each call, and adds some 20 us to it.
func recording(perf, file string) []string {
	return []string{perf, "record", "-q", "-e", netlinkCalls, "-o", file}
}

// trace notes the netlinkCalls of a process; nil where perf isn't installed or the kernel
// doesn't let it.
func (w *world) trace(id int) (*tracing, error) {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return nil, nil
	}
	w.starts++
	t := &tracing{file: filepath.Join(w.dir, fmt.Sprintf("calls-%d", w.starts))}
	if t.perf, err = process.Launch(w.dir, "perf", append(recording(perf, t.file), "-p", strconv.Itoa(id))...); err != nil {
		return nil, err
	}
	pause(attachTime)
	if t.perf.Over() {
		return nil, nil
	}
	return t, nil
}

// end gives the time that each call took.
func (t *tracing) end() ([]time.Duration, error) {
	t.perf.Interrupt()
	return callTimes(t.file)
}

// oneEndpoint gives the kernel's time for one changed endpoint: the median time of a
// transaction by as many of them as a change takes, with what tracing adds.
func (w *world) oneEndpoint(ctx context.Context, r *running, size int) (us float64, ok bool, err error) {
	t, err := w.trace(r.ID())
	if t == nil || err != nil {
		return 0, false, err
	}
	churner, err := w.churn(ctx, size)
	if err != nil {
		_, endErr := t.end()
		return 0, false, errors.Join(err, endErr)
	}
	pause(traceTime)
	churner.stop()
	pause(attachTime / 10) // the last change may be on its way
	calls, err := t.end()
	if err = errors.Join(err, churner.err); err != nil || len(calls) == 0 || churner.made == 0 {
		return 0, false, err
	}
	each := float64(len(calls)) / float64(churner.made)
	return each * microseconds(figure.Percentile(calls, 50)), true, nil
}

// kernelPart starts ours once more on an empty kernel and gives the time that its
// transactions take.
func (w *world) kernelPart(ctx context.Context, c contender, size int) (sum time.Duration, ok bool, err error) {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return 0, false, nil
	}
	w.forget(c.name)
	file := filepath.Join(w.dir, fmt.Sprintf("calls-of-start-%d", size))
	r, err := w.start(ctx, c, append(recording(perf, file), "--")...)
	if err != nil {
		return 0, false, err
	}
	_, err = r.programmed(ctx, size)
	if r.Over() { // perf couldn't trace, and started nothing
		return 0, false, nil
	}
	for _, id := range r.Children() {
		err = errors.Join(err, unix.Kill(id, unix.SIGKILL))
	}
	r.Done() // perf ends with what it traces
	if err != nil {
		return 0, false, err
	}
	calls, err := callTimes(file)
	for _, c := range calls {
		sum += c
	}
	return sum, len(calls) > 0, err
}

// callLine is one end of a call in what perf-script(1) writes:
//
//	16783   342.905000123: syscalls:sys_enter_sendto: ...
var callLine = regexp.MustCompile(`^\s*([0-9]+)\s+([0-9]+)\.([0-9]{9}):\s+syscalls:sys_(enter|exit)_send(?:to|msg):`)

// callTimes reads how long each call took.
func callTimes(file string) ([]time.Duration, error) {
	script := exec.Command("perf", "script", "--ns", "-F", "tid,time,event", "-i", file)
	raw, err := script.Output()
	if err != nil {
		return nil, fmt.Errorf("read the trace: %w", err)
	}
	return parseCalls(raw)
}

func parseCalls(raw []byte) (out []time.Duration, err error) {
	begun := map[string]time.Duration{} // by thread
	for line := range bytes.Lines(raw) {
		m := callLine.FindSubmatch(line)
		if m == nil {
			continue
		}
		at, err := time.ParseDuration(fmt.Sprintf("%ss%sns", m[2], m[3]))
		if err != nil {
			return nil, fmt.Errorf("read the trace: %w", err)
		}
		thread := string(m[1])
		if string(m[4]) == "enter" {
			begun[thread] = at
		} else if since, ok := begun[thread]; ok {
			out = append(out, at-since)
			delete(begun, thread)
		}
	}
	return out, nil
}
