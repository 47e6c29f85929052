package world

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
	NodeIPv4, ClientIPv4 = "192.0.2.2", "192.0.2.1" // RFC 5737
	NodeIPv6, ClientIPv6 = "2001:db8::2", "2001:db8::1"
	uplink               = "uplink"
)

// stopTimeout is how long Portico may take to stop.
const stopTimeout = 20 * time.Second

// World is the namespaces, the folder and the process of one story.
type World struct {
	portico, Self string
	dir           string
	name          string   // of the node
	command       []string // what Launch runs
	Node, Client  string   // network namespaces
	server        *exec.Cmd
	ended         chan error
	Out           io.Writer
}

// New makes a world. name tells it from others of this process; self is a program
// that calls AskMain when its first argument is "ask".
func New(name, portico, self string, out io.Writer) (_ *World, err error) {
	dir, err := os.MkdirTemp("", "portico-"+name+"-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	id := fmt.Sprint(os.Getpid())
	w := &World{portico: portico, Self: self, dir: dir, name: "demo", command: []string{"up"}, Node: "portico-" + name + "-" + id, Client: "portico-" + name + "-client-" + id, Out: out}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Remove())
		}
	}()
	return w, w.wire()
}

// wire makes the namespaces. Bridge netfilter is switched off in the node's, as it is
// on hosts without br_netfilter: with it on, mistakes could hide.
func (w *World) wire() error {
	for _, c := range []string{
		"ip netns add " + w.Node,
		"ip netns add " + w.Client,
		"ip -n " + w.Node + " link set lo up",
		"ip -n " + w.Client + " link set lo up",
		"ip link add " + uplink + " netns " + w.Node + " type veth peer name eth0 netns " + w.Client,
		"ip -n " + w.Node + " addr add " + NodeIPv4 + "/24 dev " + uplink,
		"ip -n " + w.Node + " addr add " + NodeIPv6 + "/64 dev " + uplink + " nodad",
		"ip -n " + w.Node + " link set " + uplink + " up",
		"ip -n " + w.Client + " addr add " + ClientIPv4 + "/24 dev eth0",
		"ip -n " + w.Client + " addr add " + ClientIPv6 + "/64 dev eth0 nodad",
		"ip -n " + w.Client + " link set eth0 up",
		"ip -n " + w.Node + " route add default via " + ClientIPv4,
		"ip -n " + w.Node + " -6 route add default via " + ClientIPv6,
	} {
		if err := command(c); err != nil {
			return err
		}
	}
	w.forgetBridgeNetfilter(w.Node)
	return nil
}

// command runs a command of words without spaces.
func command(c string) error {
	args := strings.Fields(c)
	if raw, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", c, err, bytes.TrimSpace(raw))
	}
	return nil
}

func (w *World) forgetBridgeNetfilter(netns string) {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		// Absent where the kernel has no bridge netfilter: then it is off.
		_ = w.In(context.Background(), netns, "sh", "-c", "echo 0 > /proc/sys/net/bridge/"+name+" 2>/dev/null").Run()
	}
}

// In prepares a command inside a network namespace. Not by `ip netns exec`, which
// mounts another /sys without cgroup v2.
func (w *World) In(ctx context.Context, netns string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + netns}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.Kubeconfig(), "HOME="+w.dir)
	return cmd
}

func (w *World) Data() string       { return filepath.Join(w.dir, "data") }
func (w *World) Kubeconfig() string { return filepath.Join(w.Data(), "kubeconfig") }
func (w *World) log() string        { return filepath.Join(w.dir, "portico.log") }

// Run executes a portico command in the node's namespace, shows it as a user would
// type it, and returns its output.
func (w *World) Run(ctx context.Context, args ...string) (string, error) {
	shown := strings.Join(args, " ")
	if args[0] != "kubectl" {
		shown = "portico " + shown
	}
	fmt.Fprintf(w.Out, "$ %s\n", shown)
	out, err := w.Quiet(ctx, args...)
	fmt.Fprint(w.Out, indent(out))
	return out, err
}

// Quiet is run without a word.
func (w *World) Quiet(ctx context.Context, args ...string) (string, error) {
	raw, err := w.In(ctx, w.Node, append([]string{w.portico}, args...)...).CombinedOutput()
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

// Start runs Portico and waits until it serves.
func (w *World) Start(ctx context.Context) error {
	if err := w.Launch(); err != nil {
		return err
	}
	return w.Ready(ctx)
}

// Launch runs Portico and waits for nothing.
func (w *World) Launch() error {
	log, err := os.OpenFile(w.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	w.server = w.In(context.Background(), w.Node, append([]string{w.portico}, append(w.command, "--data-dir", w.Data(), "--node-name", w.name)...)...)
	w.server.Stdout, w.server.Stderr = log, log
	if err := w.server.Start(); err != nil {
		return fmt.Errorf("start portico: %w", err)
	}
	w.ended = make(chan error, 1)
	server, ended := w.server, w.ended
	go func() { ended <- server.Wait() }()
	return nil
}

// Kill ends `portico up` as a crash would, without a word to it.
func (w *World) Kill() error {
	if err := w.server.Process.Kill(); err != nil {
		return fmt.Errorf("kill portico: %w", err)
	}
	<-w.ended
	w.server = nil
	return nil
}

// Ready waits until Portico serves.
func (w *World) Ready(ctx context.Context) error {
	return w.Until(ctx, "the node is Ready", func() error {
		select {
		case err := <-w.ended:
			w.ended <- err
			return fmt.Errorf("%w: portico ended: %v", errHopeless, err)
		default:
		}
		if _, err := os.Stat(w.Kubeconfig()); err != nil {
			return err
		}
		out, err := w.Quiet(ctx, "kubectl", "get", "node", w.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("its condition Ready is %q", out)
		}
		return err
	})
}

// errHopeless ends a wait at once.
var errHopeless = errors.New("it is no use to wait")

// Until polls for what nothing tells us of, until ctx ends.
func (w *World) Until(ctx context.Context, what string, f func() error) error {
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

// Stop ends `portico up` as an administrator does; guests go on.
func (w *World) Stop() error {
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

// Remove ends everything of this world and deletes its namespaces and folder.
func (w *World) Remove() error {
	errs := []error{w.Stop()}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if _, err := os.Stat(w.Data()); err == nil {
		_, err := w.Quiet(ctx, "down", "--data-dir", w.Data())
		errs = append(errs, err)
	}
	for _, ns := range []string{w.Node, w.Client} {
		if _, err := os.Stat("/run/netns/" + ns); err == nil {
			errs = append(errs, exec.Command("ip", "netns", "del", ns).Run())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

func (w *World) ShowLog() {
	raw, err := os.ReadFile(w.log())
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	fmt.Fprintf(w.Out, "\nThe end of Portico's log:\n%s", indent(strings.Join(lines[max(0, len(lines)-30):], "\n")))
}

// Explain says how to go on by hand.
func (w *World) Explain() {
	fmt.Fprintf(w.Out, `
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
`, w.Node, w.Kubeconfig(), w.portico, NodeIPv4, w.Client, NodeIPv6, w.server.Process.Pid, w.Data(), w.dir)
}
