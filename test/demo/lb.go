package main

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
	"strings"
	"time"

	"portico.dev/portico/test/world"
)

const (
	// lbLimit is for three guests that start at once on a machine without
	// virtualization, and start again.
	lbLimit = 6 * time.Minute
	// pace is that of the client that sends while the node is lost.
	pace = 20 * time.Millisecond
	// guestPort is where guests answer, and what stands for them.
	guestPort = 9376
	// lossGoal is what an address may be away, with all that a busy machine adds: the
	// figures are those of `make bench-failover`.
	lossGoal = 3 * time.Second
)

// lbStory is the procedure with a Service of type LoadBalancer, on three nodes.
type lbStory struct {
	story
	lan       *world.LAN
	addresses []netip.Addr // external
	servers   []func() error
}

// demoLB runs all steps and cleans up. Without a guest image, servers on the nodes stand
// for guests.
func demoLB(ctx context.Context, portico, self, guest, examples string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lbLimit)
	defer cancel()
	begin := time.Now()
	var flags []string
	if guest == "" {
		flags = []string{"--vm", "off"}
	}
	lan, err := world.NewLAN("lb", portico, self, out, []string{"a", "b", "c"}, flags...)
	if err != nil {
		return err
	}
	s := &lbStory{story: story{World: lan.Nodes[0].World, guest: guest, examples: examples}, lan: lan}
	defer func() {
		if err != nil {
			for _, n := range lan.Nodes {
				n.ShowLog()
			}
		}
		for _, end := range s.servers {
			err = errors.Join(err, end())
		}
		err = errors.Join(err, lan.Remove())
	}()
	if err := play(ctx, s.steps(), out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n== All steps succeeded in %v\n", time.Since(begin).Round(time.Second))
	return nil
}

func (s *lbStory) steps() []step {
	machines, label := step{"create the namespace and three virtual machines", s.machines}, step{"label the third machine's template, and restart it", s.label}
	if s.guest == "" {
		machines, label = step{"create the namespace and a server on each node", s.serve}, step{"make the third server an endpoint", s.serveLate}
	}
	return []step{
		{"start Portico on a node; two more join it", s.begin},
		machines,
		{"create a pool, and the Service", s.service},
		label,
		{"ask by both external addresses, from outside", s.ask},
		{"lose the node that has the address, while clients outside send", s.lose},
	}
}

func (s *lbStory) begin(ctx context.Context) error {
	if s.guest != "" {
		for _, n := range s.lan.Nodes {
			if _, err := n.Run(ctx, "image", "import", s.guest, "--data-dir", n.Data()); err != nil {
				return err
			}
		}
	}
	if err := s.lan.Start(ctx); err != nil {
		return err
	}
	_, err := s.Run(ctx, "kubectl", "get", "nodes", "-o", "wide")
	return err
}

// serve makes a server on each node and the Service's endpoints by hand, but for that of
// the guest that gets its label later: pods are run by nothing here.
func (s *lbStory) serve(ctx context.Context) error {
	if _, err := s.Run(ctx, "kubectl", "create", "-f", filepath.Join(s.examples, "00-namespace.yaml")); err != nil {
		return err
	}
	for i, n := range s.lan.Nodes {
		end, err := n.Serve(ctx, guests[i], fmt.Sprint(":", guestPort))
		if err != nil {
			return err
		}
		s.servers = append(s.servers, end)
	}
	return s.slices(ctx, slices.Index(guests, late))
}

// serveLate makes the last server an endpoint, too.
func (s *lbStory) serveLate(ctx context.Context) error {
	if err := s.slices(ctx, len(guests)); err != nil {
		return err
	}
	return s.endpoints(ctx, len(guests))
}

// slices writes the endpoints of the first servers.
func (s *lbStory) slices(ctx context.Context, first int) error {
	type object map[string]any
	var items []object
	for _, family := range []string{"IPv4", "IPv6"} {
		var endpoints []object
		for _, n := range s.lan.Nodes[:first] {
			at := n.IPv4
			if family == "IPv6" {
				at = n.IPv6
			}
			endpoints = append(endpoints, object{"addresses": []string{at}, "nodeName": n.Name(), "conditions": object{"ready": true}})
		}
		items = append(items, object{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family, "endpoints": endpoints,
			"metadata": object{"name": strings.ToLower(family), "namespace": namespace, "labels": object{"kubernetes.io/service-name": service}},
			"ports":    []object{{"name": "", "port": guestPort}},
		})
	}
	raw, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		return err
	}
	file := filepath.Join(s.Data(), "slices.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return err
	}
	_, err = s.Run(ctx, "kubectl", "apply", "-f", file)
	return err
}

func (s *lbStory) service(ctx context.Context) error {
	for _, name := range []string{"pool", "example-service"} {
		if _, err := s.Run(ctx, "kubectl", "create", "-f", filepath.Join(s.examples, "loadbalancer", name+".yaml")); err != nil {
			return err
		}
	}
	err := s.Until(ctx, "the Service has an external address of each family", func() error {
		out, err := s.Quiet(ctx, "kubectl", "get", "service", service, "-n", namespace, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
		if err != nil {
			return err
		}
		s.addresses = nil
		for _, word := range strings.Fields(out) {
			a, err := netip.ParseAddr(word)
			if err != nil {
				return err
			}
			s.addresses = append(s.addresses, a)
		}
		if len(s.addresses) != 2 || s.addresses[0].Is4() == s.addresses[1].Is4() {
			return fmt.Errorf("it has %q", out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	out, err := s.kubectl(ctx, "get", "service")
	if err != nil {
		return err
	}
	if shown := s.addresses[0].String() + "," + s.addresses[1].String(); !strings.Contains(out, shown) {
		return fmt.Errorf("get service doesn't show the external addresses %s", shown)
	}
	return s.endpoints(ctx, 2)
}

// url asks for an external address.
func (s *lbStory) url(a netip.Addr) string {
	return fmt.Sprintf("http://%s/", joinPort(a.String(), 80))
}

// ask wants an answer by each address from the guest of the node that has it.
func (s *lbStory) ask(ctx context.Context) error {
	if _, err := s.Run(ctx, "announce", "--data-dir", s.Data()); err != nil {
		return err
	}
	for _, a := range s.addresses {
		err := s.Until(ctx, "the address "+a.String()+" answers", func() error {
			t, err := s.from(s.Client)(ctx, s.url(a))
			if err != nil {
				return err
			}
			if t.Failures > 0 || len(t.Answers) != 1 {
				return fmt.Errorf("%v, %d failed: %s", t.Answers, t.Failures, strings.Join(t.Errors, "; "))
			}
			fmt.Fprintf(s.Out, "  a client outside -> %-30s %v\n", s.url(a), t.Answers)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// holder waits until a node has the address that isn't the one given.
func (s *lbStory) holder(ctx context.Context, a netip.Addr, not string) (holder string, err error) {
	err = s.Until(ctx, fmt.Sprintf("another node than %q has %s", not, a), func() (err error) {
		if holder, err = s.lan.Nodes[0].Holder(ctx, a); err == nil && (holder == "" || holder == not) {
			err = fmt.Errorf("%q has it", holder)
		}
		return err
	})
	return holder, err
}

// lose takes the node away that has the first address, and tells what clients saw. The
// API's node stays, so that it can be asked: it hands the address over before.
func (s *lbStory) lose(ctx context.Context) error {
	first := s.lan.Nodes[0].Name()
	was, err := s.holder(ctx, s.addresses[0], "")
	if err != nil {
		return err
	}
	if was == first {
		if _, err := s.Run(ctx, "node", "cordon", first); err != nil {
			return err
		}
		if was, err = s.holder(ctx, s.addresses[0], first); err != nil {
			return err
		}
	}
	var ends []func() (world.Tally, error)
	for _, a := range s.addresses {
		end, err := s.Stream(ctx, s.Client, pace, s.url(a))
		if err != nil {
			return err
		}
		ends = append(ends, end)
	}
	err = s.loseNow(ctx, was)
	for i, end := range ends {
		t, endErr := end()
		if err = errors.Join(err, endErr); endErr != nil {
			continue
		}
		fmt.Fprintf(s.Out, "  %-16s answered: %v; %d requests failed; the longest time without an answer: %v\n", s.addresses[i], t.Answers, t.Failures, t.Gap.Round(time.Millisecond))
		if i == 0 && (len(t.Answers) < 2 || t.Gap > lossGoal) {
			err = errors.Join(err, fmt.Errorf("%s: %d servers answered, and for %v nobody did", s.addresses[i], len(t.Answers), t.Gap))
		}
	}
	if err != nil {
		return err
	}
	_, err = s.Run(ctx, "announce", "--data-dir", s.Data())
	return err
}

func (s *lbStory) loseNow(ctx context.Context, name string) error {
	if err := s.wait(ctx, afterStop); err != nil { // both clients were answered before
		return err
	}
	i := slices.IndexFunc(s.lan.Nodes, func(n *world.Node) bool { return n.Name() == name })
	if i < 0 {
		return fmt.Errorf("%s is held by %q, which is no node", s.addresses[0], name)
	}
	fmt.Fprintf(s.Out, "  node %s has %s; its power fails\n", name, s.addresses[0])
	if err := s.lan.Lose(s.lan.Nodes[i]); err != nil {
		return err
	}
	now, err := s.holder(ctx, s.addresses[0], name)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "  node %s has it now\n", now)
	return s.wait(ctx, afterStop)
}
