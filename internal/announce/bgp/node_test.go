package bgp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/test/rig"
)

// nodeVariable makes the test's program a node that speaks BGP: gobgp opens its sockets
// where the process is, and nodes are killed and frozen.
const nodeVariable = "PORTICO_TEST_BGP_NODE"

func TestMain(m *testing.M) {
	if name := os.Getenv(nodeVariable); name != "" {
		if err := beNode(name); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// world is what a node is told: MetalLB's objects and addresses of Services.
type world struct {
	Config    metallb.Config
	Addresses []netip.Addr      // of the node
	Services  []balanced        // all in the first pool
	Secrets   map[string]string // passwords by name
}

// balanced is a Service with an address.
type balanced struct {
	Name    string
	Address netip.Addr
	Local   bool
	Ready   []string // nodes with ready endpoints
}

// order is what the test says to a node: one of the four.
type order struct {
	World    *world
	State    bool
	Events   bool
	Withdraw bool
}

// beNode speaks until the test closes its input (or kills it).
func beNode(name string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	var mu sync.Mutex
	secrets, events := map[string]string{}, []Event{}
	level := slog.LevelInfo
	if os.Getenv("PORTICO_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	s := New(Options{
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", name),
		Password: func(_ context.Context, ref metallb.SecretReference) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			if p, ok := secrets[ref.Name]; ok {
				return p, nil
			}
			return "", errors.New("not found")
		},
		Event: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		},
	})
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() { failed = s.Run(ctx) })
	go func() { // ends with the process: reading can't be interrupted
		defer cancel()
		in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
		in.Buffer(nil, 1<<22)
		for in.Scan() {
			var o order
			if err := json.Unmarshal(in.Bytes(), &o); err != nil {
				panic(err)
			}
			var answer any = "done"
			switch {
			case o.World != nil:
				mu.Lock()
				secrets = o.World.Secrets
				mu.Unlock()
				s.Set(o.World.input(name))
			case o.State:
				answer = s.State()
			case o.Events:
				mu.Lock()
				answer = slices.Clone(events)
				mu.Unlock()
			case o.Withdraw:
				if err := s.Leave(ctx); err != nil {
					answer = err.Error()
				}
			}
			if out.Encode(answer) != nil {
				return
			}
		}
	}()
	wg.Wait()
	return failed
}

func (w *world) input(self string) announcing.Input {
	for i, p := range w.Config.BGPPeers {
		if p.Namespace == "" {
			w.Config.BGPPeers[i].Namespace = "metallb-system"
		}
	}
	in := announcing.Input{Config: &w.Config, Self: self, Nodes: []announcing.Node{{Name: self, Addresses: w.Addresses}}}
	for _, s := range w.Services {
		slice := &catalog.Slice{IPv6: s.Address.Is6()}
		for _, n := range s.Ready {
			slice.Endpoints = append(slice.Endpoints, catalog.Endpoint{Node: n, Ready: true})
		}
		in.Services = append(in.Services, announcing.Service{
			View: catalog.View{
				Service: &catalog.Service{Name: types.NamespacedName{Namespace: "default", Name: s.Name}, ExternalLocal: s.Local},
				Slices:  []*catalog.Slice{slice},
			},
			Addresses: []announcing.Address{{Addr: s.Address, Pool: w.Config.Pools[0]}},
		})
	}
	return in
}

// node is a host with a speaker, as the test sees it.
type node struct {
	*rig.Host
	t     *testing.T
	world world
	cmd   *exec.Cmd
	in    *json.Encoder
	out   *json.Decoder
	end   func()
}

// newNode makes a host on the LAN, with addresses that end in n.
func newNode(t *testing.T, lan *rig.LAN, name string, n int, base world) *node {
	t.Helper()
	h := rig.NewHost(t, name)
	four, six := fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("2001:db8::%d", n)
	lan.Connect(t, h, netip.MustParsePrefix(four+"/24"), netip.MustParsePrefix(six+"/64"))
	base.Addresses = []netip.Addr{netip.MustParseAddr(four), netip.MustParseAddr(six)}
	nd := &node{Host: h, t: t, world: base}
	nd.start()
	return nd
}

// start runs the speaker and tells it its world.
func (n *node) start() {
	n.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeVariable+"="+n.Name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.Do(cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	n.cmd, n.in, n.out = cmd, json.NewEncoder(stdin), json.NewDecoder(stdout)
	n.end = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	n.t.Cleanup(n.end)
	n.tell()
}

func (n *node) ask(o order, answer any) {
	n.t.Helper()
	if err := n.in.Encode(o); err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
	if err := n.out.Decode(answer); err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
}

// tell has the speaker know the world as it is now.
func (n *node) tell() {
	n.t.Helper()
	var done string
	n.ask(order{World: &n.world}, &done)
}

func (n *node) withdraw() {
	n.t.Helper()
	var done string
	if n.ask(order{Withdraw: true}, &done); done != "done" {
		n.t.Fatal(done)
	}
}

func (n *node) state() (s State) {
	n.t.Helper()
	n.ask(order{State: true}, &s)
	return s
}

// told gives the events so far, a line each.
func (n *node) told() []string {
	n.t.Helper()
	var events []Event
	n.ask(order{Events: true}, &events)
	var lines []string
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%s %s %s %s: %s", e.Type, e.Reason, e.On.Kind, e.On.Name, e.Message))
	}
	return lines
}

// tells waits until the events are those that are wanted, each by its beginning.
func (n *node) tells(want ...string) {
	n.t.Helper()
	eventually(n.t, n.Name+" tells its moves", func() error {
		got := n.told()
		if len(got) != len(want) {
			return fmt.Errorf("it tells\n%s", strings.Join(got, "\n"))
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				return fmt.Errorf("%q isn't %q", got[i], want[i])
			}
		}
		return nil
	})
}

// terminate ends the speaker as systemd does.
func (n *node) terminate() {
	n.t.Helper()
	n.cmd.Process.Signal(syscall.SIGTERM)
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("%s: %v", n.Name, err)
	}
}

// established waits for all sessions.
func (n *node) established() {
	n.t.Helper()
	eventually(n.t, n.Name+" has its sessions", func() error {
		peers := n.state().Peers
		if len(peers) == 0 {
			return errors.New("there is none yet")
		}
		for _, p := range peers {
			if p.Status != Established {
				return fmt.Errorf("%s with %s: %s", p.Status, p.Peer, p.Why)
			}
		}
		return nil
	})
}

// patience is how long a state may take on a busy machine with the race detector.
const patience = 40 * time.Second

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after %v: %s: %v", patience, what, err)
		}
		time.Sleep(20 * time.Millisecond) // a pause between questions
	}
}

// base is a world with a pool, one peer and one advertisement.
func base(peer metallb.BGPPeerSpec, services ...balanced) world {
	w := world{Services: services}
	pool := &metallb.IPAddressPool{}
	pool.Name, pool.Spec.Addresses = "lan", []string{"198.51.100.0/24", "2001:db8:1::/64"}
	router := &metallb.BGPPeer{Spec: peer}
	router.Name = "router"
	all := &metallb.BGPAdvertisement{}
	all.Name = "all"
	w.Config.Pools = []*metallb.IPAddressPool{pool}
	w.Config.BGPPeers = []*metallb.BGPPeer{router}
	w.Config.BGPAdvertisements = []*metallb.BGPAdvertisement{all}
	return w
}

func at(name, address string) balanced {
	return balanced{Name: name, Address: netip.MustParseAddr(address)}
}

// contains fails unless all the words are in the text.
func contains(text string, words ...string) error {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return fmt.Errorf("no %q in\n%s", w, text)
		}
	}
	return nil
}
