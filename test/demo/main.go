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
	lb := flag.Bool("lb", false, "the variant with a load balancer, on three nodes")
	flag.Parse()
	if err := demo(ctx, options{portico: *portico, guest: *guest, examples: *examples, keep: *keep, lb: *lb}, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// options are the demo's flags.
type options struct {
	portico, guest, examples string
	keep, lb                 bool
}

// demo runs one variant with all that it needs.
func demo(ctx context.Context, o options, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and needs root; run it with sudo")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	for _, p := range []*string{&o.portico, &o.guest, &o.examples} {
		if *p == "" && o.lb {
			continue // servers stand for guests
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
		if _, err := os.Stat(*p); err != nil {
			return fmt.Errorf("%w; run it by `make demo`, which builds what it needs", err)
		}
	}
	if o.lb {
		return demoLB(ctx, o.portico, self, o.guest, o.examples, out)
	}
	return demoNodePort(ctx, o, self, out)
}

// demoNodePort runs all steps and cleans up, unless it is to keep everything.
func demoNodePort(ctx context.Context, o options, self string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	w, err := world.New("demo", o.portico, self, out)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.ShowLog()
		}
		if !o.keep || err != nil {
			err = errors.Join(err, w.Remove())
		}
	}()
	s := &story{World: w, guest: o.guest, examples: o.examples, keep: o.keep}
	if err := play(ctx, s.steps(), out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n== All steps succeeded in %v\n", time.Since(begin).Round(time.Second))
	if o.keep {
		w.Explain()
	}
	return nil
}

// play runs steps, one after the other.
func play(ctx context.Context, steps []step, out io.Writer) error {
	for i, step := range steps {
		fmt.Fprintf(out, "\n== %d. %s\n", i, step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d (%s) failed: %w", i, step.title, err)
		}
	}
	return nil
}
