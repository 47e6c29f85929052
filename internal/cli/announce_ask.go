package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"portico.dev/portico/internal/announce/l2"
)

// announceSocket is below the data directory: a word in a line goes in, JSON comes out.
const announceSocket = "node/announce.sock"

// The words.
const (
	askLayer2 = "layer2" // layer2Answer
	askBGP    = "bgp"    // bgp.State
	askLeave  = "leave"  // leaveAnswer, once nothing is announced any more
)

// answer makes what a word asks for.
type answer func(ctx context.Context) any

// layer2Answer is what each agent knows of all addresses, and what of the configuration
// can't be on its node.
type layer2Answer struct {
	l2.Report
	Problems []string `json:"problems,omitempty"`
}

// leaveAnswer says why leaving failed.
type leaveAnswer struct {
	Error string `json:"error,omitempty"`
}

func messageOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// serveAnswers answers on a socket until ctx ends. Without the socket all else works.
func serveAnswers(ctx context.Context, path string, log *slog.Logger, answers map[string]answer) error {
	l, err := listenPrivately(path)
	if err != nil {
		log.Warn("`portico announce` won't find this agent", "error", err)
		return nil
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		<-ctx.Done()
		l.Close() //nolint:errcheck // the kernel removes it
	})
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // ctx ended
		}
		group.Go(func() {
			defer c.Close()                              //nolint:errcheck // a socket of ours
			c.SetDeadline(time.Now().Add(statusTimeout)) //nolint:errcheck // likewise
			const longest = 64
			word, err := bufio.NewReader(io.LimitReader(c, longest)).ReadString('\n')
			f := answers[strings.TrimSpace(word)]
			if err != nil || f == nil {
				return
			}
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			_ = json.NewEncoder(c).Encode(f(ctx)) // who went away has no need of it
		})
	}
}

// askAgent asks the agent of this host.
func askAgent(dataDir, word string, into any) error {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	c, err := net.DialTimeout("unix", filepath.Join(dir, announceSocket), statusTimeout)
	if err != nil {
		return fmt.Errorf("no agent that announces addresses can be asked on --data-dir %s: %w; run it as root where `portico up` or `portico agent` runs", dir, cause(err))
	}
	defer c.Close() //nolint:errcheck // nothing is lost
	// The agent's own limit is the same: it tells what it was waiting for.
	if err := c.SetDeadline(time.Now().Add(statusTimeout + time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, word); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	if err := json.NewDecoder(c).Decode(into); err != nil {
		return fmt.Errorf("read what the agent says: %w", err)
	}
	return nil
}

// leaveAnnouncements has the running agent of this host give up all load-balancer
// addresses, before it is stopped for good: others have taken them, and routers know, when
// it returns. An agent that announces nothing has none.
func leaveAnnouncements(dataDir string) error {
	if _, err := os.Stat(filepath.Join(dataDir, announceSocket)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var said leaveAnswer
	if err := askAgent(dataDir, askLeave, &said); err != nil {
		return err
	}
	if said.Error != "" {
		return errors.New(said.Error)
	}
	return nil
}

// listenPrivately opens a Unix socket for this user alone, in the place of an earlier run's.
func listenPrivately(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	const ownerOnly = 0o600
	return l, os.Chmod(path, ownerOnly)
}
