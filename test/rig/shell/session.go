package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"portico.dev/portico/test/rig"
)

// stopTimeout is how long what the shell runs may take to end.
const stopTimeout = 2 * time.Second

// shell runs bash in a host: as a person's when in is a terminal, else on the script
// that in holds. The end of ctx ends it, with all that it started.
func (w *world) shell(ctx context.Context, h *rig.Host, name string, in io.Reader, out, report io.Writer) error {
	cmd := exec.CommandContext(ctx, "bash", "--noprofile", "--norc")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, report
	cmd.Env = append(os.Environ(), "BASH_FUNC_on%%="+w.on(), "PS1="+name+"$ ", "HISTFILE=")
	cmd.WaitDelay = stopTimeout
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		cmd.Args = append(cmd.Args, "-i") // it makes process groups of its own
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGHUP) }
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		defer func() {
			if cmd.Process != nil { // what the script left behind
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // mostly nothing
			}
		}()
	}
	if err := h.Do(cmd.Start); err != nil {
		return fmt.Errorf("start bash in %s: %w", name, err)
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// on is the body of a function of bash that runs a command in another host.
func (w *world) on() string {
	var b strings.Builder
	b.WriteString("() { local host=$1; shift; case $host in\n")
	for _, name := range slices.Sorted(maps.Keys(w.hosts)) {
		fmt.Fprintf(&b, "%s) nsenter --net=%s -- \"$@\";;\n", name, w.hosts[name].Path())
	}
	fmt.Fprintf(&b, "*) echo \"on: there is no host $host, but %s\" >&2; return 2;;\nesac; }", w.names())
	return b.String()
}
