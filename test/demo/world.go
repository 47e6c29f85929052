package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The node and a client outside are two network namespaces on one wire.
const (
	nodeIPv4, clientIPv4 = "192.0.2.2", "192.0.2.1" // RFC 5737
	nodeIPv6, clientIPv6 = "2001:db8::2", "2001:db8::1"
	uplink               = "uplink"
)

// stopTimeout is how long Portico may take to stop.
const stopTimeout = 20 * time.Second

// world is the namespaces, the folder and the process of one demo.
type world struct {
	portico, self string
	dir           string
	node, client  string // network namespaces
	server        *exec.Cmd
	ended         chan error
	out           io.Writer
}

func newWorld(portico, self string, out io.Writer) (_ *world, err error) {
	dir, err := os.MkdirTemp("", "portico-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	id := fmt.Sprint(os.Getpid())
	w := &world{portico: portico, self: self, dir: dir, node: "portico-demo-" + id, client: "portico-client-" + id, out: out}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.remove())
		}
	}()
	return w, w.wire()
}

// wire makes the namespaces. Bridge netfilter is switched off in the node's, as it is
// on hosts without br_netfilter: with it on, mistakes could hide.
func (w *world) wire() error {
	for _, c := range []string{
		"ip netns add " + w.node,
		"ip netns add " + w.client,
		"ip -n " + w.node + " link set lo up",
		"ip -n " + w.client + " link set lo up",
		"ip link add " + uplink + " netns " + w.node + " type veth peer name eth0 netns " + w.client,
		"ip -n " + w.node + " addr add " + nodeIPv4 + "/24 dev " + uplink,
		"ip -n " + w.node + " addr add " + nodeIPv6 + "/64 dev " + uplink + " nodad",
		"ip -n " + w.node + " link set " + uplink + " up",
		"ip -n " + w.client + " addr add " + clientIPv4 + "/24 dev eth0",
		"ip -n " + w.client + " addr add " + clientIPv6 + "/64 dev eth0 nodad",
		"ip -n " + w.client + " link set eth0 up",
		"ip -n " + w.node + " route add default via " + clientIPv4,
		"ip -n " + w.node + " -6 route add default via " + clientIPv6,
	} {
		args := strings.Fields(c)
		if raw, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, bytes.TrimSpace(raw))
		}
	}
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		// Absent where the kernel has no bridge netfilter: then it is off.
		_ = w.in(context.Background(), w.node, "sh", "-c", "echo 0 > /proc/sys/net/bridge/"+name+" 2>/dev/null").Run()
	}
	return nil
}

// in prepares a command inside a network namespace. Not by `ip netns exec`, which
// mounts another /sys without cgroup v2.
func (w *world) in(ctx context.Context, netns string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + netns}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.kubeconfig(), "HOME="+w.dir)
	return cmd
}

func (w *world) data() string       { return filepath.Join(w.dir, "data") }
func (w *world) kubeconfig() string { return filepath.Join(w.data(), "kubeconfig") }
func (w *world) log() string        { return filepath.Join(w.dir, "portico.log") }

// run executes a portico command in the node's namespace, shows it as a user would
// type it, and returns its output.
func (w *world) run(ctx context.Context, args ...string) (string, error) {
	shown := strings.Join(args, " ")
	if args[0] != "kubectl" {
		shown = "portico " + shown
	}
	fmt.Fprintf(w.out, "$ %s\n", shown)
	out, err := w.quiet(ctx, args...)
	fmt.Fprint(w.out, indent(out))
	return out, err
}

// quiet is run without a word.
func (w *world) quiet(ctx context.Context, args ...string) (string, error) {
	raw, err := w.in(ctx, w.node, append([]string{w.portico}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(raw))
	}
	return string(raw), err
}

func indent(s string) string {
	if s = strings.TrimRight(s, "\n"); s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ") + "\n"
}

// start runs `portico up` and waits until it serves.
func (w *world) start(ctx context.Context) error {
	log, err := os.OpenFile(w.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	w.server = w.in(context.Background(), w.node, w.portico, "up", "--data-dir", w.data(), "--node-name", "demo")
	w.server.Stdout, w.server.Stderr = log, log
	if err := w.server.Start(); err != nil {
		return fmt.Errorf("start portico: %w", err)
	}
	w.ended = make(chan error, 1)
	server, ended := w.server, w.ended
	go func() { ended <- server.Wait() }()
	return w.until(ctx, "the node is Ready", func() error {
		select {
		case err := <-w.ended:
			w.ended <- err
			return fmt.Errorf("%w: portico ended: %v", errHopeless, err)
		default:
		}
		if _, err := os.Stat(w.kubeconfig()); err != nil {
			return err
		}
		out, err := w.quiet(ctx, "kubectl", "get", "node", "demo", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("its condition Ready is %q", out)
		}
		return err
	})
}

// errHopeless ends a wait at once.
var errHopeless = errors.New("it is no use to wait")

// until polls for what nothing tells us of, until ctx ends.
func (w *world) until(ctx context.Context, what string, f func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if errors.Is(err, errHopeless) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		case <-tick.C:
		}
	}
}

// stop ends `portico up` as an administrator does; guests go on.
func (w *world) stop() error {
	if w.server == nil {
		return nil
	}
	defer func() { w.server = nil }()
	if err := w.server.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop portico: %w", err)
	}
	select {
	case err := <-w.ended:
		if err != nil {
			return fmt.Errorf("portico did not stop cleanly: %w", err)
		}
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("portico did not stop within %v", stopTimeout), w.server.Process.Kill())
	}
}

// remove ends everything of this demo and deletes its namespaces and folder.
func (w *world) remove() error {
	errs := []error{w.stop()}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if _, err := os.Stat(w.data()); err == nil {
		_, err := w.quiet(ctx, "down", "--data-dir", w.data())
		errs = append(errs, err)
	}
	for _, ns := range []string{w.node, w.client} {
		if _, err := os.Stat("/run/netns/" + ns); err == nil {
			errs = append(errs, exec.Command("ip", "netns", "del", ns).Run())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

func (w *world) showLog() {
	raw, err := os.ReadFile(w.log())
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	fmt.Fprintf(w.out, "\nThe end of Portico's log:\n%s", indent(strings.Join(lines[max(0, len(lines)-30):], "\n")))
}

// explain says how to go on by hand.
func (w *world) explain() {
	fmt.Fprintf(w.out, `
Everything goes on running. To try it:

  nsenter --net=/run/netns/%[1]s env KUBECONFIG=%[2]s bash    # the node
    %[3]s kubectl get vm,vmi,svc,endpointslices -A
    curl http://%[4]s:30000/
  nsenter --net=/run/netns/%[5]s curl http://%[4]s:30000/     # a client outside
  nsenter --net=/run/netns/%[5]s curl 'http://[%[6]s]:30000/'

To end it:

  kill %[7]d; sleep 2
  nsenter --net=/run/netns/%[1]s %[3]s down --data-dir %[8]s
  ip netns del %[1]s; ip netns del %[5]s; rm -r %[9]s
`, w.node, w.kubeconfig(), w.portico, nodeIPv4, w.client, nodeIPv6, w.server.Process.Pid, w.data(), w.dir)
}
