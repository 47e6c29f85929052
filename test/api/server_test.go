package api

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// server is a process of `portico up --no-agent`, made from this test binary.
type server struct {
	dir  string // its working directory; the data lie in data
	cmd  *exec.Cmd
	done chan error
}

// startTimeout allows for the race detector on busy cores.
const startTimeout = time.Minute

// kubeconfig is the administrator's, written by the server.
func (s *server) kubeconfig() string { return filepath.Join(s.dir, "data", "kubeconfig") }

func (s *server) start() error {
	if err := os.Remove(s.kubeconfig()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	program, err := exec.LookPath("portico") // testscript put us there under this name
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(program, "up", "--no-agent", "--data-dir", filepath.Dir(s.kubeconfig()), "--listen", "127.0.0.1:0", "--node-name", "test")
	s.cmd.Env = append(os.Environ(), "HOME="+s.dir)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan error, 1)
	go func() { s.done <- s.cmd.Wait() }()
	deadline := time.After(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(s.kubeconfig()); err == nil {
			return nil
		}
		select {
		case err := <-s.done:
			s.cmd = nil
			return fmt.Errorf("the server ended at its start: %v\n%s", err, s.log())
		case <-deadline:
			return fmt.Errorf("the server was not ready after %v\n%s", startTimeout, s.log())
		case <-tick.C:
		}
	}
}

func (s *server) log() []byte {
	raw, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
	if err != nil {
		return []byte(err.Error())
	}
	return raw
}

func (s *server) stop(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	err := <-s.done
	s.cmd = nil
	if sig == syscall.SIGTERM && err != nil {
		return fmt.Errorf("the server did not stop cleanly: %w\n%s", err, s.log())
	}
	return nil
}

type serverKey struct{}

// ownServer runs a server for the script; its kubeconfig is in the environment.
func ownServer(env *testscript.Env) error {
	s := &server{dir: env.WorkDir}
	env.Setenv("KUBECONFIG", s.kubeconfig())
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("KUBECTL", os.Getenv("KUBECTL"))
	env.Values[serverKey{}] = s
	env.Defer(func() {
		if err := s.stop(syscall.SIGTERM); err != nil {
			env.T().Log(err)
		}
	})
	return s.start()
}

// restart ends the script's server with a signal (TERM or KILL) and starts it again.
func restart(ts *testscript.TestScript, neg bool, args []string) {
	sig := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	if neg || len(args) != 1 || sig[args[0]] == 0 {
		ts.Fatalf("usage: restart TERM|KILL")
	}
	s := ts.Value(serverKey{}).(*server)
	ts.Check(s.stop(sig[args[0]]))
	ts.Check(s.start())
}
