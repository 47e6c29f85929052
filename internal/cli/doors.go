package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/node/door"
)

// apiServerName is who the API server is to the nodes' doors.
const apiServerName = "portico-apiserver"

// doors reaches nodes' doors by the addresses in their Node objects, as an API
// server reaches kubelets.
type doors struct {
	mu     sync.Mutex // guards the following
	kube   kubernetes.Interface
	config *tls.Config
}

func newDoors() *doors { return &doors{} }

// use gives the doors what they need once the API answers.
func (d *doors) use(kube kubernetes.Interface, authority *certs.Authority) error {
	leaf, err := authority.ClientLeaf(apiServerName)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kube = kube
	d.config = &tls.Config{GetClientCertificate: leaf.GetClientCertificate, RootCAs: authority.Pool(), MinVersion: tls.VersionTLS13}
	return nil
}

// Console opens the serial console of an instance (apiserver.Doors).
func (d *doors) Console(ctx context.Context, node, namespace, instance string) (net.Conn, error) {
	d.mu.Lock()
	kube, config := d.kube, d.config
	d.mu.Unlock()
	if kube == nil {
		return nil, errors.New("the server is still starting")
	}
	n, err := kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("find the door of node %s: %w", node, err)
	}
	port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && port > 0 {
			return door.DialConsole(ctx, net.JoinHostPort(a.Address, strconv.Itoa(int(port))), config, namespace, instance)
		}
	}
	return nil, fmt.Errorf("node %s has no door: its agent runs no guests", node)
}
