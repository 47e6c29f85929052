package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/test/rig"
)

// asNode in the environment makes this test's program the Keeper of the host that it was
// started in; asDown removes all that it left.
const asNode, asDown = "PORTICO_TEST_PEERS_NODE", "PORTICO_TEST_PEERS_DOWN"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asNode) != "":
		if err := beNode(os.Getenv(asNode)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(asDown) != "":
		report, err := routes.Teardown(os.Getenv(asDown))
		fmt.Println(strings.Join(report.Removed, "\n"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// orders are what a program is told: its configuration at first, then each time all nodes
// and guests there are.
type orders struct {
	Name            string
	PodCIDRs        []netip.Prefix
	Cluster, Guests []netip.Prefix
	Mode            mesh.Mode
	Addresses       []netip.Addr

	Nodes []mesh.Node
	Pods  []mesh.Guest
}

// beNode runs a Keeper by the orders on standard input, until that ends.
func beNode(config string) error {
	var o orders
	if err := json.Unmarshal([]byte(config), &o); err != nil {
		return err
	}
	k, err := New(Config{
		Name: o.Name, PodCIDRs: o.PodCIDRs, Cluster: o.Cluster, Guests: o.Guests, Mode: o.Mode, Port: 4789,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", o.Name),
		Planned: func(p mesh.Plan) {
			missing, err := Missing(p)
			fmt.Printf("planned mtu=%d routes=%d missing=%v %v\n", p.MTU, len(p.Routes), missing, err)
		},
	}, o.Addresses)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	for in := json.NewDecoder(os.Stdin); ; {
		var next orders
		if err := in.Decode(&next); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if next.Addresses != nil {
			k.SetAddresses(next.Addresses)
		}
		if next.Nodes != nil {
			k.Set(next.Nodes, next.Pods)
		}
	}
	stop()
	return <-done
}

// member is a node of the tests with its program.
type member struct {
	*rig.Node
	t      *testing.T
	orders orders
	cmd    *exec.Cmd
	to     *json.Encoder
	lines  chan string
}

// start runs the program and tells it what it is to know.
func (m *member) start(nodes []mesh.Node, pods []mesh.Guest) {
	m.t.Helper()
	m.run()
	m.tell(nodes, pods)
}

// run runs the program, which knows no nodes yet.
func (m *member) run() {
	m.t.Helper()
	config, err := json.Marshal(m.orders)
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = append(os.Environ(), asNode+"="+string(config))
	m.cmd.Stderr = m.t.Output()
	in, err := m.cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.Do(m.cmd.Start); err != nil {
		m.t.Fatal(err)
	}
	m.to, m.lines = json.NewEncoder(in), make(chan string, 100)
	go func(lines chan<- string) {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}(m.lines)
	m.t.Cleanup(m.kill)
	if err := m.to.Encode(orders{Addresses: m.orders.Addresses}); err != nil {
		m.t.Fatal(err)
	}
}

// tell hands over all nodes and guests, and waits until the program has planned anew.
func (m *member) tell(nodes []mesh.Node, pods []mesh.Guest) string {
	m.t.Helper()
	if err := m.to.Encode(orders{Nodes: nodes, Pods: pods, Addresses: m.orders.Addresses}); err != nil {
		m.t.Fatal(err)
	}
	return m.planned()
}

// planned waits for the next plan, all of which the kernel must have.
func (m *member) planned() string {
	m.t.Helper()
	select {
	case line := <-m.lines:
		if !strings.Contains(line, "missing=[] <nil>") {
			m.t.Fatalf("%s: %s", m.Name, line)
		}
		return line
	case <-time.After(30 * time.Second):
		m.t.Fatalf("%s planned nothing", m.Name)
		return ""
	}
}

// kill ends the program without a word to it.
func (m *member) kill() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill() // it may have ended
	_ = m.cmd.Wait()
	m.cmd = nil
}

// down removes what the program left and returns what that was.
func (m *member) down() string {
	m.t.Helper()
	m.kill()
	var out []byte
	err := m.Do(func() (err error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), asDown+"="+m.t.TempDir())
		cmd.Stderr = m.t.Output()
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		m.t.Fatalf("%s: %v", m.Name, err)
	}
	return string(out)
}
