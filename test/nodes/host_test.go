package nodes

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/internal/cli"
	"portico.dev/portico/test/child"
	"portico.dev/portico/test/journal"
	"portico.dev/portico/test/rig"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "portico" {
		os.Exit(cli.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// patience is how long a state may take on a busy machine.
const patience = 30 * time.Second

// lan is the network of the tests' hosts.
type lan struct {
	*rig.LAN
	portico string
	hosts   int
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	rig.Need(t)
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s; `make deps` installs it", program)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	portico := filepath.Join(t.TempDir(), "portico")
	if err := os.Symlink(self, portico); err != nil {
		t.Fatal(err)
	}
	return &lan{LAN: rig.NewLAN(t), portico: portico, hosts: 2}
}

// host is a machine with a data directory, on which at most one daemon runs.
type host struct {
	*testing.T
	*rig.Host
	lan        *lan
	dir        string
	ipv4, ipv6 netip.Addr
	daemon     *child.Process // nil: none
	ended      chan struct{}  // of the last one
	log        journal.Log
}

// host adds one to the LAN.
func (l *lan) host(t *testing.T, name string) *host {
	t.Helper()
	h := &host{
		T: t, Host: rig.NewHost(t, name), lan: l, dir: t.TempDir(),
		ipv4: netip.AddrFrom4([4]byte{192, 0, 2, byte(l.hosts)}), // RFC 5737
		ipv6: netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", l.hosts)),
	}
	l.hosts++
	l.Connect(t, h.Host, netip.PrefixFrom(h.ipv4, 24), netip.PrefixFrom(h.ipv6, 64))
	for _, r := range []rig.Route{
		{To: netip.MustParsePrefix("0.0.0.0/0"), Link: rig.Uplink, Via: netip.MustParseAddr("192.0.2.1")},
		{To: netip.MustParsePrefix("::/0"), Link: rig.Uplink, Via: netip.MustParseAddr("2001:db8::1")},
	} {
		if err := h.AddRoute(r); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		h.signal(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("host %s printed:\n%s", name, h.log.String())
		}
	})
	return h
}

// command prepares a command of Portico on the host.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.Path(), h.lan.portico}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(h.dir, "kubeconfig"), "HOME="+h.dir)
	return cmd
}

// run runs a command to its end.
func (h *host) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	raw, err := h.command(ctx, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: portico %s: %w: %s", h.Name, strings.Join(args, " "), err, raw)
	}
	return strings.TrimSpace(string(raw)), err
}

// must runs a command that has to succeed.
func (h *host) must(args ...string) string {
	h.Helper()
	out, err := h.run(args...)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// start runs a daemon on the host's data directory.
func (h *host) start(args ...string) {
	h.Helper()
	var err error
	if h.daemon, err = child.Start(h.command(context.Background(), append(args, "--data-dir", h.dir)...), &h.log); err != nil {
		h.Fatal(err)
	}
	h.ended = h.daemon.Ended
}

// signal ends the daemon, if one runs. nsenter has become it: they are one process. The
// goroutines of one that doesn't end are in the log.
func (h *host) signal(s syscall.Signal) {
	if h.daemon != nil && !h.daemon.Signal(s, syscall.SIGQUIT, patience) {
		h.Errorf("host %s: the daemon didn't end in %v", h.Name, patience)
	}
	h.daemon = nil
}

// until waits for something that daemons do in their own time.
func (h *host) until(what string, holds func() error) {
	h.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.Fatalf("%s: not after %v: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// untilReady waits until nodes are Ready, and nothing else is.
func (h *host) untilReady(nodes ...string) {
	h.Helper()
	h.until(fmt.Sprintf("nodes %v are Ready", nodes), func() error {
		out, err := h.run("kubectl", "get", "nodes", "--sort-by=metadata.name", "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		if want := strings.Join(nodes, "=True ") + "=True"; err == nil && strings.TrimSpace(out) != want {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
}
