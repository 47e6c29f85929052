package userspace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/test/rig"
)

// nobodyEnv has a copy of this test be the data plane of an ordinary user.
const nobodyEnv = "PORTICO_TEST_NOBODY"

// limitEnv bounds its descriptors.
const limitEnv = "PORTICO_TEST_NOFILE"

// readerEnv has a copy verify the process of that number, as the user of verifierEnv.
const (
	readerEnv   = "PORTICO_TEST_READER"
	verifierEnv = "PORTICO_TEST_VERIFIER"
)

func TestMain(m *testing.M) {
	for variable, is := range map[string]func(io.Reader, io.Writer) error{nobodyEnv: serveAsNobody, readerEnv: verifyAs} {
		if os.Getenv(variable) == "" {
			continue
		}
		if err := is(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// become gives up every privilege. The process is as readable as one that never had any
// (proc(5), PR_SET_DUMPABLE).
func become(user int) error {
	if os.Getuid() == user {
		return nil
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(user), syscall.Setuid(user), unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
}

// verifyAs verifies a state as a user, and answers with the words.
func verifyAs(in io.Reader, out io.Writer) error {
	process, err := strconv.Atoi(os.Getenv(readerEnv))
	user, err2 := strconv.Atoi(os.Getenv(verifierEnv))
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if err := become(user); err != nil {
		return err
	}
	var state dataplane.State
	if err := json.NewDecoder(in).Decode(&state); err != nil {
		return err
	}
	words, err := OpenDirectReader(process).Verify(context.Background(), dataplane.Site{}, state)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(words)
}

// nobody is Debian's user without any right.
const nobody = 65534

// serveAsNobody gives up every privilege and serves one state after the other. It answers
// with what it can't serve.
func serveAsNobody(in io.Reader, out io.Writer) error {
	if n, err := strconv.ParseUint(os.Getenv(limitEnv), 10, 64); err == nil {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			return err
		}
	}
	if err := become(nobody); err != nil {
		return err
	}
	b, err := New(Config{Direct: true, Workloads: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	defer b.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var state dataplane.State
		if err := json.Unmarshal(lines.Bytes(), &state); err != nil {
			return err
		}
		if err := b.Sync(context.Background(), state); err != nil {
			return err
		}
		var answer []string
		for _, f := range b.Unserved() {
			answer = append(answer, f.String())
		}
		if err := json.NewEncoder(out).Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// ordinary is a data plane without privileges in a host.
type ordinary struct {
	t       *testing.T
	process *exec.Cmd
	in      io.Writer
	out     *bufio.Scanner
}

func startOrdinary(t *testing.T, h *rig.Host, tweaks ...func(*exec.Cmd)) *ordinary {
	t.Helper()
	o := &ordinary{t: t, process: exec.Command(os.Args[0])}
	o.process.Env, o.process.Stderr = append(os.Environ(), nobodyEnv+"=1"), os.Stderr
	for _, tweak := range tweaks {
		tweak(o.process)
	}
	in, err := o.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := o.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.in, o.out = in, bufio.NewScanner(out)
	if err := h.Do(o.process.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := o.process.Wait(); err != nil {
			t.Errorf("the data plane: %v", err)
		}
	})
	return o
}

// sync has it serve a state and gives what it can't.
func (o *ordinary) sync(state dataplane.State) (unserved []string) {
	o.t.Helper()
	if err := json.NewEncoder(o.in).Encode(state); err != nil {
		o.t.Fatal(err)
	}
	if !o.out.Scan() {
		o.t.Fatalf("the data plane ended: %v", o.out.Err())
	}
	if err := json.Unmarshal(o.out.Bytes(), &unserved); err != nil {
		o.t.Fatal(err)
	}
	return unserved
}

// lan is a node, a client and a host with backends, side by side.
type lan struct {
	node, client, servers *rig.Host
}

var (
	nodeAddrs    = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	clientAddrs  = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")}
	serversAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}
	vip          = netip.MustParseAddr("192.0.2.77")
)

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{rig.NewHost(t, "node"), rig.NewHost(t, "client"), rig.NewHost(t, "servers")}
	wire := rig.NewLAN(t)
	for h, addrs := range map[*rig.Host][]netip.Addr{l.node: nodeAddrs, l.client: clientAddrs, l.servers: serversAddrs} {
		wire.Connect(t, h, netip.PrefixFrom(addrs[0], 24), netip.PrefixFrom(addrs[1], 64))
	}
	for _, port := range []uint16{8080, 8081} {
		for _, a := range serversAddrs {
			l.servers.ServeTCP(t, netip.AddrPortFrom(a, port))
			l.servers.ServeUDP(t, netip.AddrPortFrom(a, port))
		}
	}
	return l
}

// frontend makes one with both backends of its family, for everybody.
func frontend(service string, kind routing.Kind, at netip.Addr, protocol catalog.Protocol, number uint16) *routing.Frontend {
	backend := serversAddrs[family(at)]
	return &routing.Frontend{
		Key: routing.Key{Addr: at, Protocol: protocol, Port: number}, Kind: kind,
		Service: types.NamespacedName{Namespace: "default", Name: service}, PortName: protocol.String(),
		Sets: &routing.Sets{Cluster: backendsAt(netip.AddrPortFrom(backend, 8080), netip.AddrPortFrom(backend, 8081))},
	}
}

func refusing(f *routing.Frontend, from routing.Origin) *routing.Frontend {
	f.Verdicts[from] = routing.Verdict{Action: routing.Drop}
	return f
}

func ranges(f *routing.Frontend, all ...string) *routing.Frontend {
	for _, p := range all {
		f.SourceRanges = append(f.SourceRanges, netip.MustParsePrefix(p))
	}
	return f
}

// until tries until f is content; it says why not after rig.Patience.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(3 * rig.Patience); time.Now().Before(end); {
		if err = f(); err == nil {
			return
		}
		time.Sleep(time.Millisecond) // what is waited for needs the processor too
	}
	t.Errorf("%s: %v", what, err)
}

// DP-05, DP-06, DP-14: without privileges node ports and addresses that the host has are
// served over both families and protocols; source ranges and policies count; a port that
// another program has is named, and the others don't suffer.
func TestWithoutPrivilege(t *testing.T) {
	l := newLAN(t)
	var taken net.Listener
	if err := l.node.Do(func() (err error) {
		taken, err = net.Listen("tcp4", "192.0.2.1:30099")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	state := dataplane.State{NodeAddresses: nodeAddrs, Frontends: []*routing.Frontend{
		frontend("web", routing.ClusterIP, netip.MustParseAddr("10.96.0.20"), catalog.TCP, 80),
		frontend("taken", routing.NodePort, any4, catalog.TCP, 30099),
		frontend("taken", routing.NodePort, any4, catalog.UDP, 30099),
		frontend("low", routing.NodePort, any4, catalog.TCP, 99),
		refusing(frontend("local", routing.NodePort, any4, catalog.TCP, 30081), routing.Outside),
		ranges(frontend("few", routing.LoadBalancerIP, vip, catalog.TCP, 8444), "192.0.2.2/32"),
		ranges(frontend("others", routing.LoadBalancerIP, vip, catalog.TCP, 8445), "192.0.2.128/25"),
		ranges(frontend("others", routing.LoadBalancerIP, vip, catalog.UDP, 8445), "192.0.2.128/25"),
	}}
	for _, p := range []catalog.Protocol{catalog.TCP, catalog.UDP} {
		state.Frontends = append(state.Frontends,
			frontend("web", routing.NodePort, any4, p, 30080), frontend("web", routing.NodePort, any6, p, 30080), frontend("web", routing.LoadBalancerIP, vip, p, 8443))
	}
	o := startOrdinary(t, l.node)
	ask := func(network string, to netip.AddrPort) func() error {
		return func() error {
			a, err := l.client.Ask(network, to)
			if err == nil && !slices.Contains(serversAddrs, a.Server.Addr()) {
				err = fmt.Errorf("%v answers", a.Server)
			}
			return err
		}
	}
	refused := func(network string, h *rig.Host, to netip.AddrPort) {
		t.Helper()
		if a, err := h.Ask(network, to); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("%s %s: %v, %v; want an error at once", network, to, a, err)
		}
	}

	unserved := o.sync(state)
	if len(unserved) != 2 || !strings.Contains(unserved[0], "TCP 192.0.2.1:99 of Service default/low isn't served: this process may not open ports so low") ||
		!strings.Contains(unserved[1], "TCP 192.0.2.1:30099 of Service default/taken isn't served: another program listens there") {
		t.Errorf("unserved: %q", unserved)
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, a := range nodeAddrs {
			if err := ask(network, netip.AddrPortFrom(a, 30080))(); err != nil {
				t.Errorf("node port, %s %s: %v", network, a, err)
			}
		}
	}
	if err := ask("udp", netip.AddrPortFrom(nodeAddrs[0], 30099))(); err != nil {
		t.Errorf("the UDP port beside the TCP port that is taken: %v", err)
	}
	refused("tcp", l.client, netip.AddrPortFrom(nodeAddrs[0], 30081))
	if _, err := l.node.Ask("tcp", netip.AddrPortFrom(nodeAddrs[0], 30081)); err != nil {
		t.Errorf("policy Local from the node itself: %v", err)
	}
	refused("tcp", l.client, netip.AddrPortFrom(nodeAddrs[0], 30098)) // nobody's

	if err := l.node.AddAddr("lo", netip.PrefixFrom(vip, 32)); err != nil {
		t.Fatal(err)
	}
	until(t, "an address that came later", ask("tcp", netip.AddrPortFrom(vip, 8443)))
	until(t, "an address that came later, UDP", ask("udp", netip.AddrPortFrom(vip, 8443)))
	until(t, "a client in the range", ask("tcp", netip.AddrPortFrom(vip, 8444)))
	refused("tcp", l.client, netip.AddrPortFrom(vip, 8445))
	if c, err := l.client.Dial("udp", netip.AddrPort{}, netip.AddrPortFrom(vip, 8445), time.Second); err == nil {
		if a, err := rig.Exchange(c, 300*time.Millisecond); err == nil {
			t.Errorf("a client outside of the ranges is answered over UDP: %v", a)
		}
		c.Close()
	}

	taken.Close()
	until(t, "a port that was freed", ask("tcp", netip.AddrPortFrom(nodeAddrs[0], 30099)))
	if unserved := o.sync(state); len(unserved) != 1 {
		t.Errorf("unserved once the port is free: %q", unserved)
	}
	inspectOrdinary(t, l, o, state)

	state.Frontends = state.Frontends[:1]
	o.sync(state)
	refused("tcp", l.client, netip.AddrPortFrom(nodeAddrs[0], 30080))
	refused("udp", l.client, netip.AddrPortFrom(nodeAddrs[0], 30080))
}

// inspectOrdinary reads the sockets from another process, as `portico dataplane` does.
func inspectOrdinary(t *testing.T, l *lan, o *ordinary, state dataplane.State) {
	t.Helper()
	err := l.node.Do(func() error {
		r := OpenDirectReader(o.process.Process.Pid)
		words, err := r.Verify(t.Context(), dataplane.Site{}, state)
		if err != nil || len(words) != 1 || !strings.Contains(words[0], "TCP 192.0.2.1:99 of default/low: nobody listens") {
			t.Errorf("verify: %q, %v", words, err)
		}
		contents, err := r.Contents(t.Context())
		if err != nil {
			return err
		}
		key := routing.Key{Addr: nodeAddrs[1], Protocol: catalog.UDP, Port: 30080}
		if !slices.ContainsFunc(contents.Frontends, func(f dataplane.Frontend) bool { return f.Key == key && f.Inside.Proxy.Port() == 30080 }) {
			t.Errorf("%s isn't shown: %+v", key, contents.Frontends)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// DP-21: the agent's own user verifies it without any privilege and meets what root does;
// another user is told who may, and not that nothing listens.
func TestVerifyWithoutPrivilege(t *testing.T) {
	l := newLAN(t)
	any4 := netip.IPv4Unspecified()
	state := dataplane.State{NodeAddresses: nodeAddrs, Frontends: []*routing.Frontend{
		frontend("web", routing.ClusterIP, netip.MustParseAddr("10.96.0.20"), catalog.TCP, 80),
		frontend("web", routing.NodePort, any4, catalog.TCP, 30080),
		frontend("web", routing.NodePort, any4, catalog.UDP, 30080),
		frontend("low", routing.NodePort, any4, catalog.TCP, 99),
	}}
	o := startOrdinary(t, l.node)
	o.sync(state)
	verify := func(user int, of *ordinary) ([]string, error) {
		t.Helper()
		asked, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		var answer, complaint bytes.Buffer
		p := exec.CommandContext(t.Context(), os.Args[0])
		p.Env = append(os.Environ(), fmt.Sprintf("%s=%d", readerEnv, of.process.Process.Pid), fmt.Sprintf("%s=%d", verifierEnv, user))
		p.Stdin, p.Stdout, p.Stderr = bytes.NewReader(asked), &answer, &complaint
		if err := l.node.Do(p.Run); err != nil {
			return nil, errors.New(complaint.String())
		}
		var words []string
		return words, json.Unmarshal(answer.Bytes(), &words)
	}
	for user, name := range map[int]string{0: "root", nobody: "the agent's user"} {
		if words, err := verify(user, o); err != nil || len(words) != 1 || !strings.Contains(words[0], "TCP 192.0.2.1:99 of default/low: nobody listens") {
			t.Errorf("%s verifies: %q, %v", name, words, err)
		}
	}
	able := startOrdinary(t, l.node, func(p *exec.Cmd) { // may open low ports: its user sees its files, not what they are
		p.Path = "/proc/self/exe" // which this user finds by no other path
		p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE}}
	})
	able.sync(dataplane.State{})
	for of, user := range map[*ordinary]int{o: nobody - 1, able: nobody} {
		want := fmt.Sprintf("only root and the user of process %d see them", of.process.Process.Pid)
		if words, err := verify(user, of); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("user %d verifies: %q, %v; want %q", user, words, err, want)
		}
	}
}
