package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/test/rig"
	"portico.dev/portico/test/rig/scene"
)

// world is the scene with the data plane on its nodes and servers in its guests.
type world struct {
	hosts map[string]*rig.Host
	plan  scene.Plan
	views []catalog.View
}

// serverPort is where each guest answers, by HTTP and by UDP.
const serverPort = 8080

func newWorld(s *stage, views []catalog.View) (*world, error) {
	sc := scene.New(s)
	router, far := sc.Beyond()
	w := &world{plan: sc.Plan, views: views, hosts: map[string]*rig.Host{
		"outside": sc.Outside, "router": router, "far": far, "node-a": sc.Node.Host, "node-b": sc.Other.Host, "a": sc.A, "b": sc.B, "c": sc.C,
	}}
	for name, at := range map[string]scene.Dual{"a": sc.GuestA, "b": sc.GuestB, "c": sc.GuestC} {
		for _, addr := range at.Both() {
			if err := serve(s, w.hosts[name], name, netip.AddrPortFrom(addr, serverPort)); err != nil {
				return nil, err
			}
		}
	}
	for name, at := range map[string]scene.Dual{"node-a": sc.Plan.Node, "node-b": sc.Plan.Other} {
		n := map[string]*rig.Node{"node-a": sc.Node, "node-b": sc.Other}[name]
		if err := w.program(s, n, name, at); err != nil {
			return nil, fmt.Errorf("the data plane of %s: %w", name, err)
		}
	}
	return w, nil
}

// serve answers HTTP with the server's name and the client it sees, and UDP as the rig does.
func serve(s *stage, h *rig.Host, name string, at netip.AddrPort) error {
	h.ServeUDP(s, at)
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("serve at %s in guest %s: %w", at, name, err)
	}
	const patience = 10 * time.Second // with a person at the other end
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "guest %s at %s sees %s\n", name, at, r.RemoteAddr)
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	s.Cleanup(func() {
		server.Close()
		<-done
	})
	return nil
}

// program runs the data plane on a node until the stage ends, and waits for the kernel.
func (w *world) program(s *stage, n *rig.Node, name string, at scene.Dual) error {
	var backend *nftables.Backend
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", name)
	err := n.Do(func() (err error) {
		backend, err = nftables.New(nftables.Config{WorkloadRanges: w.plan.Workloads, HairpinSources: n.PorticoAddrs, Logger: log})
		return err
	})
	if err != nil {
		return err
	}
	plane := dataplane.New(backend, dataplane.Options{NodeAddresses: at.Both(), ServiceRanges: w.plan.Services, Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- plane.Run(ctx) }()
	s.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("%s: %w", name, err)
		}
		backend.Close() //nolint:errcheck // the namespace goes away with its rules
	})
	plane.Replace(&catalog.Node{Name: name}, w.views)
	const patience = 30 * time.Second
	wait, stop := context.WithTimeout(ctx, patience)
	defer stop()
	return plane.Wait(wait)
}

func (w *world) names() string {
	return strings.Join(slices.Sorted(maps.Keys(w.hosts)), ", ")
}

// describe says what is where.
func (w *world) describe(host string) string {
	p := w.plan
	var b strings.Builder
	line := func(name string, at scene.Dual, what string) {
		mark := " "
		if name == host {
			mark = "*"
		}
		fmt.Fprintf(&b, "%s %-8s %-14s %-18s %s\n", mark, name, at.V4, at.V6, what)
	}
	line("outside", p.Outside, "a client on the LAN; Services' addresses lead to node-a")
	line("router", p.Router, "on the LAN")
	line("far", p.Far, fmt.Sprintf("a client behind router, by a path of %d bytes that only ICMP tells of", scene.FarMTU))
	line("node-a", p.Node, "runs Portico's data plane; guests a and b")
	line("node-b", p.Other, "runs Portico's data plane; guest c")
	guest := fmt.Sprintf("a guest; it answers HTTP and UDP at port %d", serverPort)
	line("a", p.GuestA, guest)
	line("b", p.GuestB, guest)
	line("c", p.GuestC, guest)
	b.WriteString("\nServices on both nodes:\n")
	for i := range w.views {
		b.WriteString(describeService(w.views[i].Service))
	}
	fmt.Fprintf(&b, "\nThe shell is in %s (another: make rig-shell HOST=node-a). `on HOST COMMAND` runs a command elsewhere:\n"+
		"  curl 10.96.0.20        curl -g '[fd00:10:96::20]'        on b curl 192.0.2.1:30080        on node-a nft list table ip portico\n\n", host)
	return b.String()
}

// describeService lists a Service's doors and how many endpoints it has.
func describeService(s *catalog.Service) string {
	var doors []string
	for _, a := range s.ClusterIPs {
		doors = append(doors, a.String())
	}
	for _, a := range s.ExternalIPs {
		doors = append(doors, "external "+a.String())
	}
	for _, in := range s.Ingress {
		doors = append(doors, "load balancer "+in.IP.String())
	}
	var ports []string
	for _, p := range s.Ports {
		text := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort != 0 {
			text += fmt.Sprintf(", node port %d", p.NodePort)
		}
		ports = append(ports, text)
	}
	return fmt.Sprintf("  %-8s %s\n           %s\n", s.Name.Name, strings.Join(doors, ", "), strings.Join(ports, "; "))
}
