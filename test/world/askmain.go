package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Tally is how often which answer came, and how many requests failed.
type Tally struct {
	Answers  map[string]int `json:"answers"`
	Failures int            `json:"failures"`
	Errors   []string       `json:"errors,omitempty"`
	// Gap is the longest time from an answered request to the next answered one, of a
	// Stream.
	Gap time.Duration `json:"gap,omitempty"`
}

// AskMain is what a copy in another namespace does: `ask once URL` posts to a guest,
// `ask many N URL` makes N requests, `ask until-eof URL` goes on until its input ends, and
// so does `ask each TIME URL`, which doesn't wait for answers. `ask serve NAME ADDRESS`
// answers with a name until its input ends.
func AskMain(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 {
		return errors.New("usage: ask once|many|until-eof ARGUMENTS")
	}
	switch args[0] {
	case "once":
		body, err := post(ctx, args[1])
		if err == nil {
			_, err = out.Write(body)
		}
		return err
	case "many":
		var n int
		if _, err := fmt.Sscan(args[1], &n); err != nil || len(args) != 3 {
			return errors.New("usage: ask many N URL")
		}
		return json.NewEncoder(out).Encode(askMany(ctx, n, args[2]))
	case "until-eof":
		return json.NewEncoder(out).Encode(askMany(untilEOF(ctx), -1, args[1]))
	case "each":
		each, err := time.ParseDuration(args[1])
		if err != nil || len(args) != 3 {
			return errors.New("usage: ask each TIME URL")
		}
		return json.NewEncoder(out).Encode(askEach(untilEOF(ctx), each, args[2]))
	case "serve":
		if len(args) != 3 {
			return errors.New("usage: ask serve NAME ADDRESS")
		}
		return serve(untilEOF(ctx), args[1], args[2])
	}
	return fmt.Errorf("ask: unknown mode %q", args[0])
}

// untilEOF ends when the input does.
func untilEOF(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that counts
		cancel()
	}()
	return ctx
}

// serve answers HTTP with a name, as the test guest does.
func serve(ctx context.Context, name, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: requestTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, name) //nolint:errcheck // the client counts what it doesn't get
	})}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
