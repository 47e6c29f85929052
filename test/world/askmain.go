package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Tally is how often which answer came, and how many requests failed.
type Tally struct {
	Answers  map[string]int `json:"answers"`
	Failures int            `json:"failures"`
	Errors   []string       `json:"errors,omitempty"`
}

// AskMain is what a copy in another namespace does: `ask once URL` posts to a guest,
// `ask many N URL` makes N requests, `ask until-eof URL` goes on until its input ends.
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
		ctx, cancel := context.WithCancel(ctx)
		go func() {
			io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that counts
			cancel()
		}()
		return json.NewEncoder(out).Encode(askMany(ctx, -1, args[1]))
	}
	return fmt.Errorf("ask: unknown mode %q", args[0])
}
