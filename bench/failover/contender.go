package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"portico.dev/portico/bench/network"
)

// contender is who announces addresses.
type contender interface {
	// prefix begins the names of its figures.
	prefix() string
	// define makes what the API needs.
	define(ctx context.Context, s *stage) error
	// prepare makes what a node needs before its first start.
	prepare(s *stage, n *node) error
	argv(s *stage, n *node) []string
	// forget removes what earlier runs of a node's agent left, its Node too if that is its
	// own work.
	forget(s *stage, n *node) error
	// ready says why not all living nodes could take the Service's address now.
	ready(s *stage) error
	// rejoins says that who was cut off or frozen is a candidate again by itself soon.
	rejoins() bool
	// drains says that a node hands over when it is cordoned.
	drains() bool
}

// ours is the whole agent, as a node runs it: its data plane is what serves the address.
type ours struct{ portico string }

func (ours) prefix() string { return "" }
func (ours) rejoins() bool  { return true }
func (ours) drains() bool   { return true }

func (ours) define(context.Context, *stage) error { return nil }

func (ours) prepare(_ *stage, n *node) error {
	return n.serve(netip.AddrPortFrom(n.address, backendPort))
}

func (o ours) argv(s *stage, n *node) []string {
	return []string{
		o.portico, "agent", "--kubeconfig", s.kubeconfig, "--data-dir", o.data(s, n), "--vm", "off",
		"--node-name", n.name, "--node-ip", n.address.String(),
	}
}

func (o ours) forget(s *stage, n *node) error {
	return errors.Join(os.RemoveAll(o.data(s, n)), s.api.Must("DELETE", nodesPath+"/"+n.name, "", nil, &s.answer))
}

func (ours) data(s *stage, n *node) string { return filepath.Join(s.dir, n.name) }

// report is what an agent tells.
type report struct {
	Joined    bool
	Addresses []reported
}

type reported struct {
	Address    netip.Addr
	Holder     string
	Candidates []string
}

// ready asks the agents, as `portico announce` does.
func (o ours) ready(s *stage) error {
	for _, n := range s.living() {
		var report report
		c, err := net.DialTimeout("unix", filepath.Join(o.data(s, n), "node", "announce.sock"), time.Second)
		if err != nil {
			return err
		}
		err = c.SetDeadline(time.Now().Add(time.Second))
		if err == nil {
			_, err = fmt.Fprintln(c, "layer2") // as `portico announce` asks
		}
		if err == nil {
			err = json.NewDecoder(c).Decode(&report)
		}
		err = errors.Join(err, c.Close())
		if err != nil {
			return fmt.Errorf("ask the agent of node %s: %w", n.name, err)
		}
		i := slices.IndexFunc(report.Addresses, func(a reported) bool { return a.Address == webAddress })
		if !report.Joined || i < 0 || report.Addresses[i].Holder == "" || len(report.Addresses[i].Candidates) != len(s.living()) {
			return fmt.Errorf("the agent of node %s knows %+v", n.name, report)
		}
	}
	return nil
}

// metallb is MetalLB's speaker in its native mode, with memberlist between speakers. What
// serves the address is the kernel alone: the address is the node's own, on lo.
type metallb struct{ speaker string }

func (metallb) prefix() string { return "metallb_" }
func (metallb) rejoins() bool  { return false }
func (metallb) drains() bool   { return false }

const (
	podsPath  = "/api/v1/namespaces/metallb-system/pods"
	nodesPath = "/api/v1/nodes"
)

// define adds the one version of a kind that our API doesn't serve, and without which the
// speaker doesn't start. Nobody makes such an object.
func (metallb) define(ctx context.Context, s *stage) error {
	const crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/bgppeers.metallb.io"
	patch, err := json.Marshal([]object{{"op": "add", "path": "/spec/versions/-", "value": object{
		"name": "v1beta1", "served": true, "storage": false,
		"schema": object{"openAPIV3Schema": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
	}}})
	if err != nil {
		return err
	}
	if err := s.api.Must("PATCH", crd, "application/json-patch+json", patch, &s.answer); err != nil {
		return err
	}
	return s.server.Wait(ctx, patience, func(context.Context) error {
		return s.api.Must("GET", metallbPath+"bgppeers", "", nil, &s.answer)
	})
}

func (metallb) prepare(s *stage, n *node) error {
	if err := network.Address(n.Links, "lo", netip.PrefixFrom(webAddress, 32)); err != nil {
		return err
	}
	if err := n.serve(netip.AddrPortFrom(webAddress, webPort)); err != nil {
		return err
	}
	// What a kubelet makes: the Node, and the pod by which speakers find each other.
	pod := "speaker-" + n.name
	for _, o := range []struct {
		method, path, contentType string
		body                      object
	}{
		{"POST", nodesPath, applicationJSON, object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": n.name}}},
		{"PATCH", nodesPath + "/" + n.name + "/status", mergePatch, object{"status": object{
			"addresses":  []object{{"type": "InternalIP", "address": n.address}},
			"conditions": []object{{"type": "Ready", "status": "True", "reason": "Bench", "message": "it is", "lastTransitionTime": time.Now().UTC().Format(time.RFC3339), "lastHeartbeatTime": time.Now().UTC().Format(time.RFC3339)}},
		}}},
		{"POST", podsPath, applicationJSON, object{
			"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": pod, "labels": object{"component": "speaker"}},
			"spec": object{"nodeName": n.name, "hostNetwork": true, "tolerations": []object{{"operator": "Exists"}}, "containers": []object{{"name": "speaker", "image": "speaker"}}},
		}},
		{"PATCH", podsPath + "/" + pod + "/status", mergePatch, object{"status": object{
			"phase": "Running", "podIP": n.address, "podIPs": []object{{"ip": n.address}},
		}}},
	} {
		if err := s.api.Must(o.method, o.path, o.contentType, o.body.body(), &s.answer); err != nil {
			return err
		}
	}
	return nil
}

func (m metallb) argv(s *stage, n *node) []string {
	return []string{
		m.speaker, "--kubeconfig", s.kubeconfig, "--node-name", n.name, "--pod-name", "speaker-" + n.name, "--namespace", "metallb-system",
		"--ml-bindaddr", n.address.String(), "--ml-bindport", "7946", "--ml-labels", "component=speaker",
	}
}

func (metallb) forget(*stage, *node) error { return nil }

// ready reads what speakers say of each other: that is all that they tell.
func (metallb) ready(s *stage) error {
	for _, n := range s.living() {
		raw, err := os.ReadFile(s.logOf(n))
		if err != nil {
			return err
		}
		heard := map[string]bool{}
		lines := bufio.NewScanner(bytes.NewReader(raw))
		for lines.Scan() {
			var said struct {
				Event string `json:"node event"`
				Name  string `json:"node name"`
			}
			if json.Unmarshal(lines.Bytes(), &said) == nil && said.Event != "" {
				heard[said.Name] = said.Event != "NodeLeave"
			}
		}
		for _, other := range s.living() {
			if other != n && !heard[other.name] {
				return fmt.Errorf("the speaker of node %s hasn't heard that of %s", n.name, other.name)
			}
		}
	}
	return nil
}
