package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"portico.dev/portico/test/world"
)

const (
	namespace = "example-namespace"
	service   = "example-service"
	late      = "example-vm" // gets its label later
	stopped   = "web-2"      // begins with running: false
	asker     = "web-1"      // makes requests from inside
	nodePort  = 30000
	requests  = 300 // for each path
)

var guests = []string{asker, stopped, late}

// story is the procedure, step by step.
type story struct {
	*world.World
	guest, examples string
	keep            bool
	clusterIPs      []string
}

type step struct {
	title string
	run   func(context.Context) error
}

func (s *story) steps() []step {
	all := []step{
		{"start Portico in a network namespace of its own", s.begin},
		{"create the namespace and three virtual machines", s.machines},
		{"create the Service", s.service},
		{"label the third machine's template, and restart it", s.label},
		{fmt.Sprintf("%d requests by each path and family", requests), s.ask},
		{"stop a machine while requests run", s.failOver},
	}
	if !s.keep {
		all = append(all, step{"delete everything", s.clean})
	}
	return all
}

func (s *story) begin(ctx context.Context) error {
	if _, err := s.Run(ctx, "image", "import", s.guest, "--data-dir", s.Data()); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "$ portico up --data-dir %s\n", s.Data())
	if err := s.Start(ctx); err != nil {
		return err
	}
	_, err := s.Run(ctx, "kubectl", "get", "nodes", "-o", "wide")
	return err
}

// kubectl shows a command in the example's namespace and runs it.
func (s *story) kubectl(ctx context.Context, args ...string) (string, error) {
	return s.Run(ctx, append([]string{"kubectl"}, append(args, "-n", namespace)...)...)
}

func (s *story) machines(ctx context.Context) error {
	for _, name := range []string{"00-namespace", "web-1", "web-2", "example-vm"} {
		if _, err := s.Run(ctx, "kubectl", "create", "-f", filepath.Join(s.examples, name+".yaml")); err != nil {
			return err
		}
	}
	if err := s.ready(ctx, asker, late); err != nil {
		return err
	}
	if _, err := s.Run(ctx, "vm", "start", stopped, "-n", namespace); err != nil {
		return err
	}
	if err := s.ready(ctx, stopped); err != nil {
		return err
	}
	_, err := s.kubectl(ctx, "get", "vm,vmi")
	return err
}

// ready waits for machines that answer their readiness probe.
func (s *story) ready(ctx context.Context, names ...string) error {
	args := []string{"wait", "--for=condition=Ready", "--timeout=120s"}
	for _, n := range names {
		args = append(args, "vm/"+n)
	}
	_, err := s.kubectl(ctx, args...)
	return err
}

func (s *story) service(ctx context.Context) error {
	if _, err := s.Run(ctx, "kubectl", "create", "-f", filepath.Join(s.examples, "example-service.yaml")); err != nil {
		return err
	}
	if err := s.endpoints(ctx, 2); err != nil {
		return err
	}
	out, err := s.Run(ctx, "kubectl", "get", "service", "-n", namespace)
	if err != nil {
		return err
	}
	if !strings.Contains(out, "80:30000/TCP") {
		return fmt.Errorf("get service does not show 80:30000/TCP")
	}
	if out, err = s.kubectl(ctx, "describe", "service", service); err != nil {
		return err
	}
	if strings.Count(out, ":9376") < 2 {
		return fmt.Errorf("describe does not show two endpoints on 9376")
	}
	ips, err := s.Quiet(ctx, "kubectl", "get", "service", service, "-n", namespace, "-o", "jsonpath={.spec.clusterIPs[*]}")
	if err != nil {
		return err
	}
	if s.clusterIPs = strings.Fields(ips); len(s.clusterIPs) != 2 {
		return fmt.Errorf("the Service has cluster IPs %q, not one of each family", ips)
	}
	return nil
}

// endpoints waits until the Service has n ready endpoints of each family.
func (s *story) endpoints(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	return s.Until(ctx, fmt.Sprintf("%s has %d endpoints of each family", service, n), func() error {
		out, err := s.Quiet(ctx, "kubectl", "get", "endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name="+service,
			"-o", `go-template={{range .items}}{{range .endpoints}}{{if .conditions.ready}}{{index .addresses 0}} {{end}}{{end}}{{end}}`)
		if err != nil {
			return err
		}
		var v4, v6 int
		for _, a := range strings.Fields(out) {
			if strings.Contains(a, ":") {
				v6++
			} else {
				v4++
			}
		}
		if v4 != n || v6 != n {
			return fmt.Errorf("it has %d IPv4 and %d IPv6 endpoints", v4, v6)
		}
		return nil
	})
}

func (s *story) label(ctx context.Context) error {
	_, err := s.kubectl(ctx, "patch", "vm", late, "--type=merge", "-p", `{"spec":{"template":{"metadata":{"labels":{"special":"key"}}}}}`)
	if err != nil {
		return err
	}
	err = s.Until(ctx, "the machine's condition names the label", func() error {
		out, err := s.Quiet(ctx, "kubectl", "get", "vm", late, "-n", namespace, "-o", `jsonpath={.status.conditions[?(@.type=="LabelsPending")].message}`)
		if err == nil && !strings.Contains(out, "special") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "get", "vm", late, "-o", `jsonpath={.status.conditions[?(@.type=="LabelsPending")].message}{"\n"}`); err != nil {
		return err
	}
	out, err := s.kubectl(ctx, "get", "vmi", late, "-o", `jsonpath={.metadata.labels}{"\n"}`)
	if err != nil {
		return err
	}
	if strings.Contains(out, "special") {
		return errors.New("the running instance has the label already")
	}
	if _, err := s.Run(ctx, "vm", "restart", late, "-n", namespace); err != nil {
		return err
	}
	if err := s.endpoints(ctx, 3); err != nil {
		return err
	}
	_, err = s.kubectl(ctx, "get", "endpointslices")
	return err
}

// ask proves every path of the Service.
func (s *story) ask(ctx context.Context) error {
	guest, err := s.Quiet(ctx, "kubectl", "get", "vmi", asker, "-n", namespace, "-o", "jsonpath={.status.interfaces[0].ipAddress}")
	if err != nil {
		return err
	}
	nodes := map[string]string{"4": world.NodeIPv4, "6": world.NodeIPv6}
	for i, family := range []string{"4", "6"} {
		port := fmt.Sprintf("http://%s/", joinPort(nodes[family], nodePort))
		cluster := fmt.Sprintf("http://%s/", joinPort(s.clusterIPs[i], 80))
		name := fmt.Sprintf("http://%s.%s.svc.cluster.local/", service, namespace)
		for _, path := range []struct {
			from, to, url string
			ask           func(context.Context, string) (world.Tally, error)
		}{
			{"a client outside", "node port", port, s.from(s.Client)},
			{"the node", "node port", port, s.from(s.Node)},
			{"a guest", "node port", port, s.fromGuest(guest, family)},
			{"the node", "cluster IP", cluster, s.from(s.Node)},
			{"a guest", "cluster IP", cluster, s.fromGuest(guest, family)},
			{"a guest", "DNS name", name, s.fromGuest(guest, family)},
		} {
			t, err := path.ask(ctx, path.url)
			if err == nil {
				err = t.Check(guests...)
			}
			if err != nil {
				return fmt.Errorf("from %s to the %s by IPv%s (%s): %w", path.from, path.to, family, path.url, err)
			}
			fmt.Fprintf(s.Out, "  IPv%s  %-17s -> %-10s %-52s %v\n", family, path.from, path.to, path.url, t.Answers)
		}
	}
	return nil
}

func joinPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// from makes requests in a network namespace.
func (s *story) from(netns string) func(context.Context, string) (world.Tally, error) {
	return func(ctx context.Context, url string) (world.Tally, error) {
		return world.Parse(s.In(ctx, netns, s.Self, "ask", "many", fmt.Sprint(requests), url).Output())
	}
}

// fromGuest lets the guest at addr make the requests.
func (s *story) fromGuest(addr, family string) func(context.Context, string) (world.Tally, error) {
	return func(ctx context.Context, target string) (world.Tally, error) {
		order := fmt.Sprintf("http://%s:9377/run?n=%d&family=%s&url=%s", addr, requests, family, url.QueryEscape(target))
		return world.Parse(s.In(ctx, s.Node, s.Self, "ask", "once", order).Output())
	}
}

// failOver stops one of three machines while a client outside asks on and on.
func (s *story) failOver(ctx context.Context) error {
	end, err := s.Loop(ctx, s.Client, fmt.Sprintf("http://%s/", joinPort(world.NodeIPv4, nodePort)))
	if err != nil {
		return err
	}
	err = s.stopOne(ctx)
	t, endErr := end()
	if err := errors.Join(err, endErr); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "  meanwhile, from a client outside: %v, %d failed\n", t.Answers, t.Failures)
	if t.Failures > 0 {
		return fmt.Errorf("%d requests failed: %s", t.Failures, strings.Join(t.Errors, "; "))
	}
	return nil
}

// afterStop is how long requests go on once the guest is off: a stale rule would
// send a third of them nowhere.
const afterStop = 2 * time.Second

func (s *story) stopOne(ctx context.Context) error {
	if _, err := s.Run(ctx, "vm", "stop", asker, "-n", namespace); err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "wait", "--for=delete", "vmi/"+asker, "--timeout=60s"); err != nil {
		return err
	}
	return s.wait(ctx, afterStop)
}

func (s *story) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clean deletes the example and then Portico, and looks for what they left.
func (s *story) clean(ctx context.Context) error {
	if _, err := s.Run(ctx, "kubectl", "delete", "namespace", namespace, "--timeout=90s"); err != nil {
		return err
	}
	if err := s.nothing(ctx, "a tap", "ip", "-o", "link", "show", "type", "tun"); err != nil {
		return err
	}
	if err := s.nothing(ctx, "a QEMU process", "pgrep", "-af", "qemu-system.*"+s.Data()); err != nil {
		return err
	}
	rules, err := s.In(ctx, s.Node, "nft", "list", "ruleset").Output()
	if err != nil {
		return fmt.Errorf("list the rules: %w", err)
	}
	for _, trace := range append([]string{fmt.Sprint(nodePort)}, s.clusterIPs...) {
		if strings.Contains(string(rules), trace) {
			return fmt.Errorf("a rule with %s is left", trace)
		}
	}
	// The address and the port are free again: another Service can have them.
	again := []string{
		"kubectl", "create", "service", "nodeport", "again", "--tcp=80", fmt.Sprintf("--node-port=%d", nodePort), "-n", "default",
	}
	if _, err := s.Run(ctx, again...); err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	if _, err := s.Run(ctx, "down", "--data-dir", s.Data()); err != nil {
		return err
	}
	if err := s.nothing(ctx, "a link", "ip", "-o", "link", "show", "portico0"); err != nil {
		return err
	}
	return s.nothing(ctx, "a table", "sh", "-c", "nft list tables | grep portico")
}

// nothing wants a command in the node's namespace to find nothing.
func (s *story) nothing(ctx context.Context, what string, args ...string) error {
	out, _ := s.In(ctx, s.Node, args...).Output() // a search that finds nothing may fail
	if left := strings.TrimSpace(string(out)); left != "" {
		return fmt.Errorf("%s is left: %s", what, left)
	}
	return nil
}
