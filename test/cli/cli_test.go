// Package cli proves the command line from outside: what it refuses and in which
// words, that a refused start leaves nothing behind, and that `portico down` leaves
// nothing of a run. Scripts that need a host make one: a network namespace.
package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"portico.dev/portico/internal/cli"
	"portico.dev/portico/test/await"
)

func TestMain(m *testing.M) {
	portico := func() { os.Exit(cli.Main(os.Args[1:])) }
	testscript.Main(m, map[string]func(){
		"portico": portico,
		"portico-get": func() {
			answer, err := http.Get(os.Args[1])
			if err == nil {
				_, err = io.Copy(os.Stdout, answer.Body)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		},
		"portico-as-nobody": func() {
			const nobody = 65534
			if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(127)
			}
			portico()
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			program, err := exec.LookPath("portico") // testscript put us there under this name
			env.Setenv("PORTICO", program)
			env.Setenv("HOME", env.WorkDir)
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"refuse":     refuse,
			"eventually": await.Eventually,
			"occupy":     occupy,
			"host":       host,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "qemu":
				_, err := exec.LookPath("qemu-system-x86_64")
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// refuse runs a command that must fail with one line, "portico: " and a match of the
// pattern, and with every file as it was. The folder busy is left out: servers that
// run beside the command write there.
func refuse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: refuse PATTERN COMMAND [ARGUMENT...]")
	}
	before := files(ts)
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		ts.Fatalf("want exit code 1, got %v", err)
	}
	stderr := ts.ReadFile("stderr")
	text, ok := strings.CutPrefix(strings.TrimSuffix(stderr, "\n"), "portico: ")
	if !ok || strings.Contains(text, "\n") {
		ts.Fatalf("want one line that begins with \"portico: \", got:\n%s", stderr)
	}
	if !regexp.MustCompile(args[0]).MatchString(text) {
		ts.Fatalf("no match of %q in:\n%s", args[0], text)
	}
	if stdout := ts.ReadFile("stdout"); stdout != "" {
		ts.Fatalf("standard output isn't empty:\n%s", stdout)
	}
	if after := files(ts); after != before {
		ts.Fatalf("files before:\n%sfiles after:\n%s", before, after)
	}
}

// files lists everything in the script's folder.
func files(ts *testscript.TestScript) string {
	var out strings.Builder
	root := ts.Getenv("WORK")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == filepath.Join(root, "busy") {
				return fs.SkipDir
			}
			fmt.Fprintln(&out, path)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&out, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		return nil
	})
	ts.Check(err)
	return out.String()
}

// occupy takes a port of loopback and puts it into the environment.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy VARIABLE")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// host makes a host with an address and a default route: a network namespace that a
// sleeping process keeps. It puts the arguments for nsenter into HOST.
func host(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: host")
	}
	keeper := exec.Command("sleep", "600")
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		// The death signal is bound to the thread that starts the child.
		runtime.LockOSThread()
		defer close(stopped)
		started <- keeper.Start()
		<-stop
		_ = keeper.Process.Kill()
		_ = keeper.Wait()
	}()
	if err := <-started; err != nil {
		ts.Fatalf("make a network namespace: %v", err)
	}
	ts.Defer(func() {
		close(stop)
		<-stopped
	})
	namespace := fmt.Sprintf("--net=/proc/%d/ns/net", keeper.Process.Pid)
	ts.Setenv("HOST", namespace)
	// Addresses are usable at once: nobody here has the same, and waiting for that
	// (RFC 4862) would let them change while a script compares.
	ts.Check(ts.Exec("nsenter", namespace, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad"))
	for _, command := range []string{
		"link set lo up", "link add lan type veth peer name switch", "link set lan up", "link set switch up",
		"address add 192.0.2.10/24 dev lan", "route add default via 192.0.2.1",
		"address add 2001:db8::10/64 dev lan nodad", "route add default via 2001:db8::1",
	} {
		ts.Check(ts.Exec("nsenter", append([]string{namespace, "ip"}, strings.Fields(command)...)...))
	}
}
