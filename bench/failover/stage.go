package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

const (
	// patience is how long servers and nodes may take on a busy machine, and how long an
	// address may stay with nobody before the run gives up.
	patience = 2 * time.Minute
	// calm is how long an address must have stayed where it is before the next loss.
	calm = 500 * time.Millisecond
	look = 10 * time.Millisecond
	// late is when somebody should look why nodes don't settle.
	late = 10 * time.Second

	applicationJSON = "application/json"
	mergePatch      = "application/merge-patch+json"
	metallbPath     = "/apis/metallb.io/v1beta1/namespaces/metallb-system/"
	servicesPath    = "/api/v1/namespaces/default/services"
	slicesPath      = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
)

// stage is a contender's world: a LAN, an API, and the Service.
type stage struct {
	contender
	*lan
	dir, kubeconfig string
	server          *process.Process
	access          apiclient.Access
	api             *apiclient.Client // see connect
	answer          bytes.Buffer      // of the API
	stream          *stream
	observer        *observer
}

// newStage makes one in which all nodes run and one answers.
func newStage(ctx context.Context, dir, portico string, c contender) (s *stage, err error) {
	s = &stage{contender: c, dir: dir, kubeconfig: filepath.Join(dir, "node.kubeconfig")}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if s.lan, err = newLAN(); err != nil {
		return nil, err
	}
	if err := s.startAPI(ctx, portico); err != nil {
		return nil, err
	}
	if err := errors.Join(s.makeObjects(ctx), c.define(ctx, s)); err != nil {
		return nil, err
	}
	if s.observer, err = observe(s.watcher); err != nil {
		return nil, err
	}
	for _, n := range s.nodes {
		if err := s.prepare(s, n); err != nil {
			return nil, fmt.Errorf("prepare node %s: %w", n.name, err)
		}
	}
	for _, n := range s.nodes { // all are prepared: each looks for the others once
		if err := s.start(n); err != nil {
			return nil, err
		}
	}
	if s.stream, err = newStream(s.client, netip.AddrPortFrom(webAddress, webPort)); err != nil {
		return nil, err
	}
	_, err = s.settled(ctx)
	return s, err
}

// startAPI runs our API on the LAN, for either contender: it has MetalLB's kinds, and
// gives addresses of its pools.
func (s *stage) startAPI(ctx context.Context, portico string) (err error) {
	data, at := filepath.Join(s.dir, "data"), apiAddress.Addr().String()
	s.server, err = process.Launch(s.dir, "api", slices.Concat(s.sw.Enter(), []string{
		portico, "up", "--no-agent", "--data-dir", data, "--listen", "127.0.0.1:6443", "--advertise-address", at, "--node-name", "api",
	})...)
	if err != nil {
		return err
	}
	return s.server.Wait(ctx, patience, func(ctx context.Context) error {
		if s.access, err = apiclient.ReadKubeconfig(filepath.Join(data, "kubeconfig")); err != nil {
			return err
		}
		if err := apiclient.WriteKubeconfig(s.kubeconfig, at+":6443", s.access); err != nil {
			return err
		}
		if err := s.sw.Do(func() error { return apiclient.IsReady(ctx, s.access) }); err != nil {
			return err
		}
		return s.connect(ctx)
	})
}

// connect makes a new connection to the API, which ends those that are quiet for long.
func (s *stage) connect(ctx context.Context) error {
	if s.api != nil {
		s.api.Close()
	}
	return s.sw.Do(func() (err error) {
		s.api, err = apiclient.Dial(ctx, s.access, false)
		return err
	})
}

// makeObjects makes the pools, which nodes announce them, and the Service.
func (s *stage) makeObjects(ctx context.Context) error {
	metadata := func(name string) object { return object{"name": name} }
	for _, o := range []struct {
		path string
		body object
	}{
		{metallbPath + "ipaddresspools", object{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": metadata("web"), "spec": object{"addresses": []string{webAddress.String() + "/32"}}}},
		{metallbPath + "ipaddresspools", object{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": metadata("many"), "spec": object{"addresses": []string{manyRange.String()}}}},
		{metallbPath + "l2advertisements", object{"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": metadata("all")}},
	} {
		// The kinds are defined by a controller, once it runs.
		if err := s.server.Wait(ctx, patience, func(context.Context) error {
			return s.api.Must("POST", o.path, applicationJSON, o.body.body(), &s.answer)
		}); err != nil {
			return err
		}
	}
	if err := s.makeService("web", webAddress, "Local"); err != nil {
		return err
	}
	return s.server.Wait(ctx, patience, func(context.Context) error {
		return s.hasAddress("web")
	})
}

// makeService makes one with an endpoint on each node.
func (s *stage) makeService(name string, at netip.Addr, policy string) error {
	ports := []object{{"name": "u", "protocol": "UDP", "port": webPort, "targetPort": backendPort}}
	var endpoints []object
	for _, n := range s.nodes {
		endpoints = append(endpoints, object{"addresses": []netip.Addr{n.address}, "nodeName": n.name, "conditions": object{"ready": true}})
	}
	if err := s.api.Must("POST", servicesPath, applicationJSON, object{
		"apiVersion": "v1", "kind": "Service", "metadata": object{"name": name},
		"spec": object{"type": "LoadBalancer", "loadBalancerIP": at, "externalTrafficPolicy": policy, "allocateLoadBalancerNodePorts": false, "ports": ports},
	}.body(), &s.answer); err != nil {
		return err
	}
	return s.api.Must("POST", slicesPath, applicationJSON, object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
		"metadata": object{"name": name, "labels": object{"kubernetes.io/service-name": name}},
		"ports":    []object{{"name": "u", "protocol": "UDP", "port": backendPort}},
	}.body(), &s.answer)
}

func (s *stage) hasAddress(name string) error {
	if err := s.api.Must("GET", servicesPath+"/"+name, "", nil, &s.answer); err != nil {
		return err
	}
	var service struct {
		Status struct {
			LoadBalancer struct{ Ingress []struct{ IP string } }
		}
	}
	if err := json.Unmarshal(s.answer.Bytes(), &service); err != nil {
		return err
	}
	if len(service.Status.LoadBalancer.Ingress) == 0 {
		return fmt.Errorf("the Service %s has no address: %s", name, &s.answer)
	}
	return nil
}

// start runs a node's agent; it waits for nothing.
func (s *stage) start(n *node) (err error) {
	n.starts++
	n.agent, err = process.Launch(s.dir, s.logName(n), slices.Concat(n.Enter(), s.argv(s, n))...)
	return err
}

func (s *stage) logName(n *node) string { return fmt.Sprintf("agent-%s-%d", n.name, n.starts) }
func (s *stage) logOf(n *node) string   { return filepath.Join(s.dir, s.logName(n)+".log") }

// living are the nodes whose agents run.
func (s *stage) living() (out []*node) {
	for _, n := range s.nodes {
		if n.agent != nil {
			out = append(out, n)
		}
	}
	return out
}

func (s *stage) node(name string) *node {
	i := slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == name })
	if i < 0 {
		return nil
	}
	return s.nodes[i]
}

// until waits for what holds.
func (s *stage) until(ctx context.Context, what string, holds func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := holds()
		if err == nil {
			return nil
		}
		for _, n := range s.living() {
			if n.agent.Over() {
				return fmt.Errorf("%s: the agent of node %s ended; it said: %s", what, n.name, n.agent.Tail())
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("not so after %v: %s: %w; node %s says: %s", patience, what, err, s.nodes[0].name, tail(s.nodes[0]))
		}
		time.Sleep(look)
	}
}

func tail(n *node) string {
	if n.agent == nil {
		return "nothing, it was killed"
	}
	return n.agent.Tail()
}

// settled waits until every node could take the address and one has it, and tells which.
func (s *stage) settled(ctx context.Context) (holder *node, err error) {
	begin, said := time.Now(), false
	err = s.until(ctx, "all nodes can take the address, and one has it", func() (err error) {
		defer func() { // what isn't in a figure is to be seen nevertheless
			if err != nil && !said && time.Since(begin) > late {
				said = true
				fmt.Fprintf(os.Stderr, "%sstill not settled after %v: %v; %q answers the client, the observer hears %s\n", s.prefix(), late, err, s.stream.holder(), s.observer.owner())
			}
		}()
		if err := s.ready(s); err != nil {
			return err
		}
		if holder = s.node(s.stream.holder()); holder == nil {
			return errNobody
		}
		// A client may go on to use who had the address before.
		if s.observer.owner() != holder.mac.String() || s.observer.changes(time.Now().Add(-calm)) > 0 {
			return errMoving
		}
		return nil
	})
	return holder, err
}

func (s *stage) close() {
	s.stream.close()
	s.observer.close()
	if s.api != nil {
		s.api.Close()
	}
	if s.lan != nil {
		s.lan.close()
	}
	s.server.Stop()
}
