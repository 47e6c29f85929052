// Package api proves the API from outside: scripts that run kubectl against
// `portico up --no-agent`. Each server is a process of its own, made from this test
// binary; kubectl is the built-in one, or the program that KUBECTL names.
package api

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"portico.dev/portico/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"portico": func() { os.Exit(cli.Main(os.Args[1:])) },
		"kubectl": func() { os.Exit(kubectl(os.Args[1:])) },
	})
}

// kubectl runs the built-in client or the one that KUBECTL names.
func kubectl(args []string) int {
	program := os.Getenv("KUBECTL")
	if program == "" {
		return cli.Main(append([]string{"kubectl"}, args...))
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	return 0
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               startServer,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"eventually": eventually,
			"restart":    restart,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "builtin":
				return os.Getenv("KUBECTL") == "", nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// startServer runs a server for the script; its kubeconfig is in the environment.
func startServer(env *testscript.Env) error {
	env.Setenv("KUBECONFIG", filepath.Join(env.WorkDir, "data", "kubeconfig"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("KUBECTL", os.Getenv("KUBECTL"))
	s := &server{env: env}
	env.Values[serverKey{}] = s
	env.Defer(func() {
		if err := s.stop(syscall.SIGTERM); err != nil {
			env.T().Log(err)
		}
	})
	return s.start()
}

type serverKey struct{}

// server is a process of `portico up --no-agent`.
type server struct {
	env  *testscript.Env
	cmd  *exec.Cmd
	done chan error
}

// startTimeout allows for the race detector on busy cores.
const startTimeout = time.Minute

func (s *server) start() error {
	kubeconfig := s.env.Getenv("KUBECONFIG")
	if err := os.Remove(kubeconfig); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	program, err := exec.LookPath("portico") // testscript put us there under this name
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.env.WorkDir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(program, "up", "--no-agent", "--data-dir", filepath.Dir(kubeconfig), "--listen", "127.0.0.1:0", "--node-name", "test")
	s.cmd.Env = append(os.Environ(), "HOME="+s.env.WorkDir)
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
		if _, err := os.Stat(kubeconfig); err == nil {
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
	raw, err := os.ReadFile(filepath.Join(s.env.WorkDir, "server.log"))
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

// restart ends the server with a signal (TERM or KILL) and starts it again.
func restart(ts *testscript.TestScript, neg bool, args []string) {
	sig := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	if neg || len(args) != 1 || sig[args[0]] == 0 {
		ts.Fatalf("usage: restart TERM|KILL")
	}
	s := ts.Value(serverKey{}).(*server)
	ts.Check(s.stop(sig[args[0]]))
	ts.Check(s.start())
}

// eventually runs a command until it succeeds (or fails, with !), for the things
// that controllers do in their own time.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: [!] eventually COMMAND [ARGUMENT...]")
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not after 30 s: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
