package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"portico.dev/portico/test/world"
)

// limit is the promise of the README: the demo ends in four minutes.
const limit = 4 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "ask" { // a copy of us in another namespace
		if err := world.AskMain(ctx, os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	portico := flag.String("portico", "bin/portico", "the portico `program`")
	guest := flag.String("guest", ".cache/guest.tar", "the guest image's `archive`")
	examples := flag.String("examples", "examples", "the `folder` of manifests")
	keep := flag.Bool("keep", false, "leave everything running at the end")
	flag.Parse()
	if err := demo(ctx, *portico, *guest, *examples, *keep, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// demo runs all steps and cleans up, unless it is to keep everything.
func demo(ctx context.Context, portico, guest, examples string, keep bool, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and needs root; run it with sudo")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	paths := make([]string, 3)
	for i, p := range []string{portico, guest, examples} {
		if paths[i], err = filepath.Abs(p); err != nil {
			return err
		}
		if _, err := os.Stat(paths[i]); err != nil {
			return fmt.Errorf("%w; run it by `make demo`, which builds what it needs", err)
		}
	}
	w, err := world.New("demo", paths[0], self, out)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.ShowLog()
		}
		if !keep || err != nil {
			err = errors.Join(err, w.Remove())
		}
	}()
	s := &story{World: w, guest: paths[1], examples: paths[2], keep: keep}
	for i, step := range s.steps() {
		fmt.Fprintf(out, "\n== %d. %s\n", i, step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d (%s) failed: %w", i, step.title, err)
		}
	}
	fmt.Fprintf(out, "\n== All steps succeeded in %v\n", time.Since(begin).Round(time.Second))
	if keep {
		w.Explain()
	}
	return nil
}
