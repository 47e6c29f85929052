package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// LAN is some nodes and a client outside, each a network namespace, on one LAN. The first
// node has the API, the others join it.
//
//	a .2 (API)      b .3         c .4        client .1
//	 |               |            |             |
//	=+===============+============+=============+= 192.0.2.0/24, 2001:db8::/64
type LAN struct {
	Nodes  []*Node
	Client string // network namespace
	dir    string
	sw     string // network namespace of the switch
}

// Node is one with a world of its own, as far as commands and the daemon go.
type Node struct {
	*World
	IPv4, IPv6 string
	port       string // of the switch
	Lost       bool
}

// NewLAN makes one with nodes of these names; the rest is as in New. flags are for every
// daemon.
func NewLAN(name, portico, self string, out io.Writer, nodes []string, flags ...string) (_ *LAN, err error) {
	dir, err := os.MkdirTemp("", "portico-"+name+"-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	netns := func(of string) string { return fmt.Sprintf("portico-%s-%s-%d", name, of, os.Getpid()) }
	l := &LAN{Client: netns("client"), dir: dir, sw: netns("lan")}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Remove())
		}
	}()
	for i, n := range nodes {
		l.Nodes = append(l.Nodes, &Node{
			World: &World{
				portico: portico, Self: self, dir: filepath.Join(dir, n), name: n, command: flags,
				Node: netns(n), Client: l.Client, Out: out,
			},
			IPv4: fmt.Sprintf("192.0.2.%d", i+2), IPv6: fmt.Sprintf("2001:db8::%d", i+2), port: fmt.Sprint("port", i+2), // RFC 5737, RFC 3849
		})
	}
	first := l.Nodes[0]
	first.command = append([]string{"up", "--advertise-address", first.IPv4 + "," + first.IPv6}, flags...)
	return l, l.wire()
}

func (l *LAN) wire() error {
	commands := []string{
		"ip netns add " + l.sw, "ip -n " + l.sw + " link add lan type bridge", "ip -n " + l.sw + " link set lan up",
	}
	for _, n := range l.Nodes {
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			return err
		}
		commands = append(commands, l.plugged(n.Node, n.port, n.IPv4, n.IPv6)...)
		commands = append(commands, "ip -n "+n.Node+" route add default via "+ClientIPv4, "ip -n "+n.Node+" -6 route add default via "+ClientIPv6)
	}
	commands = append(commands, l.plugged(l.Client, "port1", ClientIPv4, ClientIPv6)...)
	for _, c := range commands {
		if err := command(c); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		n.forgetBridgeNetfilter(n.Node)
	}
	l.Nodes[0].forgetBridgeNetfilter(l.sw)
	return nil
}

// plugged makes a namespace with a cable to the switch.
func (l *LAN) plugged(netns, port, ipv4, ipv6 string) []string {
	in := "ip -n " + netns + " "
	return []string{
		"ip netns add " + netns, in + "link set lo up",
		"ip link add " + uplink + " netns " + netns + " type veth peer name " + port + " netns " + l.sw,
		in + "addr add " + ipv4 + "/24 dev " + uplink, in + "addr add " + ipv6 + "/64 dev " + uplink + " nodad", in + "link set " + uplink + " up",
		"ip -n " + l.sw + " link set " + port + " master lan up",
	}
}

// Start runs Portico on the first node, lets the others join, and waits for all.
func (l *LAN) Start(ctx context.Context) error {
	first := l.Nodes[0]
	fmt.Fprintf(first.Out, "%s$ portico %s\n", first.name, strings.Join(first.command, " "))
	if err := first.World.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(first.Out, "%s$ portico token create\n", first.name)
	raw, err := first.In(ctx, first.Node, first.portico, "token", "create").Output() // notes for people are on stderr
	if err != nil {
		return fmt.Errorf("portico token create: %w", err)
	}
	words := strings.Fields(string(raw))
	if len(words) < 4 || !strings.HasPrefix(words[0], "PORTICO_TOKEN=") || words[1] != "portico" {
		return fmt.Errorf("portico token create printed %q, which is no command", raw)
	}
	token := strings.TrimPrefix(words[0], "PORTICO_TOKEN=")
	for _, n := range l.Nodes[1:] {
		n.command = slices.Concat(words[2:], []string{"--token", token}, n.command)
		fmt.Fprintf(n.Out, "%s$ portico %s %s ...\n", n.name, n.command[0], n.command[1])
		if err := n.Launch(); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes[1:] {
		if err := n.Ready(ctx); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	return nil
}

// Name is the node's.
func (n *Node) Name() string { return n.name }

// Holder asks the node's agent which node has a load-balancer address; "": none.
func (n *Node) Holder(ctx context.Context, addr netip.Addr) (string, error) {
	raw, err := n.In(ctx, n.Node, n.portico, "announce", "-o", "json", "--data-dir", n.Data()).Output()
	if err != nil {
		return "", fmt.Errorf("ask the agent of node %s: %w", n.name, err)
	}
	var report struct {
		Addresses []struct {
			Address netip.Addr
			Holder  string
		}
	}
	if err := json.Unmarshal(raw, &report); err != nil {
		return "", fmt.Errorf("read what the agent of node %s says: %w", n.name, err)
	}
	for _, a := range report.Addresses {
		if a.Address == addr {
			return a.Holder, nil
		}
	}
	return "", nil
}

// Lose ends a node as a power failure does: its cable is dead, its daemon and its guests
// are gone.
func (l *LAN) Lose(n *Node) error {
	n.Lost = true
	return errors.Join(command("ip -n "+l.sw+" link set "+n.port+" nomaster"), n.Kill(), n.killGuests())
}

// killGuests ends the QEMU processes of the node's folder.
func (n *Node) killGuests() error {
	raw, _ := n.In(context.Background(), n.Node, "pgrep", "-f", "qemu-system.*"+n.Data()).Output() // none is a failure
	var errs []error
	for _, word := range strings.Fields(string(raw)) {
		pid, err := strconv.Atoi(word)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end guest %s of node %s: %w", word, n.name, err))
		}
	}
	return errors.Join(errs...)
}

// Remove ends everything of this world and deletes its namespaces and folders.
func (l *LAN) Remove() error {
	var errs []error
	for _, n := range slices.Backward(l.Nodes) {
		errs = append(errs, n.Stop(), n.killGuests(), n.World.Remove())
	}
	if _, err := os.Stat("/run/netns/" + l.sw); err == nil {
		errs = append(errs, command("ip netns del "+l.sw))
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}
