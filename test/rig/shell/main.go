package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	// A terminal's shell takes ctrl-C itself; what comes here is meant for all.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	host := os.Getenv("HOST")
	if host == "" {
		host = "outside"
	}
	err := run(ctx, host, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Exited():
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "rig-shell:", err)
		os.Exit(1)
	}
}

// run makes the world, has a shell work in one of its hosts, and removes all again.
func run(ctx context.Context, host string, files []string, in io.Reader, out, report io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("making network namespaces needs root: run it with sudo")
	}
	views, err := load(files)
	if err != nil {
		return err
	}
	s := &stage{}
	defer func() { err = errors.Join(err, s.end(recover())) }()
	w, err := newWorld(s, views)
	if err != nil {
		return err
	}
	h, ok := w.hosts[host]
	if !ok {
		return fmt.Errorf("HOST is %q, which is none of %s", host, w.names())
	}
	fmt.Fprint(report, w.describe(host))
	return w.shell(ctx, h, host, in, out, report)
}
