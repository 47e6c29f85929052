package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

// Peer are the binaries of Kubernetes' API.
type Peer struct {
	Etcd, APIServer string
	// ControllerManager runs beside them with the controllers that Controllers names;
	// "": it doesn't.
	ControllerManager string
	Controllers       string
}

// Start runs etcd and kube-apiserver the way kubeadm sets them up, on the given
// processors. It tries again where another process took one of the ports meanwhile.
func (p Peer) Start(ctx context.Context, dir, cpus string) (*Server, error) {
	ca, err := NewAuthority(dir)
	if err != nil {
		return nil, err
	}
	for name, groups := range map[string][]string{"etcd": nil, "apiserver": nil, "apiserver-etcd": nil, "signer": nil, "admin": {"system:masters"}} {
		if err := ca.Issue(name, name, groups...); err != nil {
			return nil, err
		}
	}
	for range 3 {
		var s *Server
		if s, err = p.try(ctx, ca, cpus); err == nil {
			return s, nil
		}
		if !errors.Is(err, process.ErrEnded) {
			break
		}
		if err := os.RemoveAll(ca.Path("etcd")); err != nil {
			return nil, err
		}
	}
	return nil, err
}

func (p Peer) try(ctx context.Context, ca *Authority, cpus string) (_ *Server, err error) {
	ports, err := process.FreePorts(3)
	if err != nil {
		return nil, err
	}
	s := &Server{cpus: cpus}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	begin := time.Now()
	store := "https://127.0.0.1:" + ports[0]
	if err := p.startStore(ctx, s, ca, ports[0], ports[1]); err != nil {
		return nil, err
	}
	// The same ranges as ours. The advertised address only fills the Endpoints of the
	// Service `kubernetes`, where loopback isn't allowed: RFC 5737 has this one.
	api, err := s.launch(ca.dir, p.APIServer, "--bind-address=127.0.0.1", "--secure-port="+ports[2], "--advertise-address=192.0.2.1",
		"--etcd-servers="+store, "--etcd-cafile="+ca.Path("ca.crt"), "--etcd-certfile="+ca.Path("apiserver-etcd.crt"), "--etcd-keyfile="+ca.Path("apiserver-etcd.key"),
		"--client-ca-file="+ca.Path("ca.crt"), "--tls-cert-file="+ca.Path("apiserver.crt"), "--tls-private-key-file="+ca.Path("apiserver.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+ca.Path("signer.key"),
		"--service-account-signing-key-file="+ca.Path("signer.key"),
		"--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/112")
	if err != nil {
		return nil, err
	}
	if s.Access, err = ca.access("127.0.0.1:"+ports[2], "admin"); err != nil {
		return nil, err
	}
	err = api.Wait(ctx, startPatience, func(ctx context.Context) error { return apiclient.IsReady(ctx, s.Access) })
	s.Ready = time.Since(begin)
	if err == nil && p.ControllerManager != "" {
		err = p.startControllers(s, ca)
	}
	return s, err
}

// startStore runs etcd and waits until it listens: kube-apiserver looks for it each
// second only.
func (p Peer) startStore(ctx context.Context, s *Server, ca *Authority, port, peerPort string) error {
	store, other := "https://127.0.0.1:"+port, "https://127.0.0.1:"+peerPort
	etcd, err := s.launch(ca.dir, p.Etcd, "--name=bench", "--data-dir="+ca.Path("etcd"), "--snapshot-count=10000",
		"--listen-client-urls="+store, "--advertise-client-urls="+store, "--listen-peer-urls="+other,
		"--initial-advertise-peer-urls="+other, "--initial-cluster=bench="+other,
		"--client-cert-auth", "--trusted-ca-file="+ca.Path("ca.crt"), "--cert-file="+ca.Path("etcd.crt"), "--key-file="+ca.Path("etcd.key"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+ca.Path("ca.crt"), "--peer-cert-file="+ca.Path("etcd.crt"), "--peer-key-file="+ca.Path("etcd.key"),
		"--log-level=warn")
	if err != nil {
		return err
	}
	return etcd.Wait(ctx, startPatience, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// startControllers runs kube-controller-manager with its defaults, but for the
// controllers and the election: it is alone.
func (p Peer) startControllers(s *Server, ca *Authority) error {
	file := ca.Path("controllers.conf")
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"bench","contexts":[{"name":"bench","context":{"cluster":"bench","user":"bench"}}],
		"clusters":[{"name":"bench","cluster":{"server":"https://%s","certificate-authority":%q}}],
		"users":[{"name":"bench","user":{"client-certificate":%q,"client-key":%q}}]}`,
		s.Access.Address, ca.Path("ca.crt"), ca.Path("admin.crt"), ca.Path("admin.key"))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return fmt.Errorf("write the controllers' kubeconfig: %w", err)
	}
	_, err := s.launch(ca.dir, p.ControllerManager, "--kubeconfig="+file, "--controllers="+p.Controllers,
		"--leader-elect=false", "--secure-port=0")
	return err
}
