package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Loop makes requests in a network namespace on and on; end stops that, and gives
// what came of them.
func (w *World) Loop(ctx context.Context, netns, url string) (end func() (Tally, error), err error) {
	return w.loop(w.In(ctx, netns, w.Self, "ask", "until-eof", url))
}

// Stream begins a request each so often, whatever became of those before; end stops that.
// The tally has the longest time without an answer.
func (w *World) Stream(ctx context.Context, netns string, each time.Duration, url string) (end func() (Tally, error), err error) {
	return w.loop(w.In(ctx, netns, w.Self, "ask", "each", each.String(), url))
}

// Serve answers HTTP with a name in the node's namespace, until end is called.
func (w *World) Serve(ctx context.Context, name, address string) (end func() error, err error) {
	server := w.In(ctx, w.Node, w.Self, "ask", "serve", name, address)
	in, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("serve on %s: %w", w.Node, err)
	}
	return func() error {
		in.Close() //nolint:errcheck // that ends it
		return server.Wait()
	}, nil
}

func (w *World) loop(loop *exec.Cmd) (end func() (Tally, error), err error) {
	in, err := loop.StdinPipe()
	if err != nil {
		return nil, err
	}
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		raw, err := loop.Output()
		done <- result{raw, err}
	}()
	return func() (Tally, error) {
		io.WriteString(in, "end\n") //nolint:errcheck // closing it is what ends the loop
		in.Close()
		r := <-done
		return Parse(r.raw, r.err)
	}, nil
}

// Parse reads what a run of AskMain, or a guest, answered.
func Parse(raw []byte, err error) (t Tally, _ error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return t, fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return t, fmt.Errorf("read %q: %w", raw, err)
	}
	return t, nil
}
