package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

// startPatience is how long a server may take to get ready on a busy machine.
const startPatience = 2 * time.Minute

// subject is a server that is measured: its processes, and how to reach it.
type subject struct {
	processes []*process.Process // in the order of their start
	access    apiclient.Access
	ready     time.Duration // from the first process's start
}

func (s *subject) stop() {
	for _, p := range slices.Backward(s.processes) {
		p.Stop()
	}
}

// memoryMB is that of all its processes.
func (s *subject) memoryMB() (float64, error) {
	var sum float64
	for _, p := range s.processes {
		m, err := p.Memory()
		if err != nil {
			return 0, err
		}
		sum += m.Anonymous
	}
	return sum, nil
}

// watchMemory notes the most memory until the returned function is called, which says
// how much it was. A reading that fails shows no peak; others then fail the round.
func (s *subject) watchMemory() func() float64 {
	var most float64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			if mb, err := s.memoryMB(); err == nil {
				most = max(most, mb)
			}
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	}()
	return sync.OnceValue(func() float64 {
		close(done)
		<-ended
		return most
	})
}

// processorTime is that of all its processes.
func (s *subject) processorTime() (time.Duration, error) {
	var sum time.Duration
	for _, p := range s.processes {
		t, err := p.Times()
		if err != nil {
			return 0, err
		}
		sum += t.Total()
	}
	return sum, nil
}

const (
	quietLook     = 2 * time.Second
	quietLooks    = 3              // one after the other: work may wait for its time
	quietUse      = quietLook / 10 // of a processor: what an idle server uses, and some noise
	quietPatience = 5 * time.Minute
)

// settle waits until the server has done what the load left it to do, such as the
// EndpointSlices of new Services, and tells how long that took.
func (s *subject) settle(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	quiet := 0
	before, err := s.processorTime()
	for err == nil {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(quietLook):
		}
		var now time.Duration
		if now, err = s.processorTime(); err == nil && now-before >= quietUse {
			quiet = -1
		}
		if quiet++; quiet == quietLooks {
			return max(0, time.Since(begin)-quietLooks*quietLook), err
		}
		if time.Since(begin) > quietPatience {
			return 0, fmt.Errorf("the server is still busy %v after the load", quietPatience)
		}
		before = now
	}
	return 0, err
}

// startPortico runs our API, with its store inside and all controllers. It is ready
// when it says so and an administrator has the file to connect with.
func startPortico(ctx context.Context, dir, cpus, binary string, more ...string) (*subject, error) {
	begin := time.Now()
	data := filepath.Join(dir, "data")
	argv := append([]string{binary, "up", "--no-agent", "--data-dir", data, "--listen", "127.0.0.1:0", "--node-name", "bench"}, more...)
	p, err := launch(dir, cpus, argv...)
	if err != nil {
		return nil, err
	}
	s := &subject{processes: []*process.Process{p}}
	err = p.Wait(ctx, startPatience, func(ctx context.Context) error {
		var err error
		if s.access, err = apiclient.ReadKubeconfig(filepath.Join(data, "kubeconfig")); err != nil {
			return err
		}
		return apiclient.IsReady(ctx, s.access)
	})
	s.ready = time.Since(begin)
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startPeer runs etcd and kube-apiserver the way kubeadm sets them up. It tries again
// where another process took one of the ports meanwhile.
func startPeer(ctx context.Context, dir, cpus, etcd, apiserver string) (*subject, error) {
	ca, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	for name, groups := range map[string][]string{"etcd": nil, "apiserver": nil, "apiserver-etcd": nil, "signer": nil, "admin": {"system:masters"}} {
		if err := ca.issue(name, name, groups...); err != nil {
			return nil, err
		}
	}
	for range 3 {
		var s *subject
		if s, err = tryPeer(ctx, ca, cpus, etcd, apiserver); err == nil {
			return s, nil
		}
		if !errors.Is(err, process.ErrEnded) {
			break
		}
		if err := os.RemoveAll(ca.path("etcd")); err != nil {
			return nil, err
		}
	}
	return nil, err
}

func tryPeer(ctx context.Context, ca *authority, cpus, etcd, apiserver string) (_ *subject, err error) {
	ports, err := process.FreePorts(3)
	if err != nil {
		return nil, err
	}
	s := &subject{}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	begin := time.Now()
	store := "https://127.0.0.1:" + ports[0]
	other := "https://127.0.0.1:" + ports[1]
	p, err := launch(ca.dir, cpus, etcd, "--name=bench", "--data-dir="+ca.path("etcd"), "--snapshot-count=10000",
		"--listen-client-urls="+store, "--advertise-client-urls="+store, "--listen-peer-urls="+other,
		"--initial-advertise-peer-urls="+other, "--initial-cluster=bench="+other,
		"--client-cert-auth", "--trusted-ca-file="+ca.path("ca.crt"), "--cert-file="+ca.path("etcd.crt"), "--key-file="+ca.path("etcd.key"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+ca.path("ca.crt"), "--peer-cert-file="+ca.path("etcd.crt"), "--peer-key-file="+ca.path("etcd.key"),
		"--log-level=warn")
	if err != nil {
		return nil, err
	}
	s.processes = append(s.processes, p)
	// kube-apiserver looks for etcd each second only: it isn't started before that listens.
	if err := p.Wait(ctx, startPatience, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+ports[0])
		if err == nil {
			conn.Close()
		}
		return err
	}); err != nil {
		return nil, err
	}
	// The same ranges as ours. The advertised address only fills the Endpoints of the
	// Service `kubernetes`, where loopback isn't allowed: RFC 5737 has this one.
	p, err = launch(ca.dir, cpus, apiserver, "--bind-address=127.0.0.1", "--secure-port="+ports[2], "--advertise-address=192.0.2.1",
		"--etcd-servers="+store, "--etcd-cafile="+ca.path("ca.crt"), "--etcd-certfile="+ca.path("apiserver-etcd.crt"), "--etcd-keyfile="+ca.path("apiserver-etcd.key"),
		"--client-ca-file="+ca.path("ca.crt"), "--tls-cert-file="+ca.path("apiserver.crt"), "--tls-private-key-file="+ca.path("apiserver.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+ca.path("signer.key"),
		"--service-account-signing-key-file="+ca.path("signer.key"),
		"--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/112")
	if err != nil {
		return nil, err
	}
	s.processes = append(s.processes, p)
	if s.access, err = ca.access("127.0.0.1:"+ports[2], "admin"); err != nil {
		return nil, err
	}
	err = p.Wait(ctx, startPatience, func(ctx context.Context) error { return apiclient.IsReady(ctx, s.access) })
	s.ready = time.Since(begin)
	return s, err
}

// addToken makes a service account that may do everything, by roles, and its token:
// the same requests for both servers.
func (s *subject) addToken(ctx context.Context) error {
	c, err := apiclient.Dial(ctx, s.access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	var answer bytes.Buffer
	const accounts = "/api/v1/namespaces/default/serviceaccounts"
	for _, request := range []struct{ path, body string }{
		{accounts, `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"bench"}}`},
		{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"bench"},
			"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},
			"subjects":[{"kind":"ServiceAccount","name":"bench","namespace":"default"}]}`},
		{accounts + "/bench/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":7200}}`},
	} {
		// The namespace and the default roles may come a moment after readiness.
		if err := s.processes[0].Wait(ctx, startPatience, func(ctx context.Context) error {
			return c.Must("POST", request.path, "application/json", []byte(request.body), &answer)
		}); err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
	}
	var token struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if err := json.Unmarshal(answer.Bytes(), &token); err != nil || token.Status.Token == "" {
		return fmt.Errorf("make a token: the server answers %s (%w)", &answer, err)
	}
	s.access.Token = token.Status.Token
	return nil
}

// launch starts a server on the given processors (a list for taskset; "" is all).
func launch(dir, cpus string, argv ...string) (*process.Process, error) {
	name := filepath.Base(argv[0])
	if cpus != "" {
		argv = append([]string{"taskset", "-c", cpus}, argv...)
	}
	return process.Launch(dir, name, argv...)
}
