package nodes

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"portico.dev/portico/internal/apiserver/apitest"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
	"portico.dev/portico/test/rig"
)

// relay has a host's address lead to a server of this process, which is in another
// namespace of networks.
func relay(t *testing.T, h *rig.Host, at netip.AddrPort, to string) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		l.Close()
		group.Wait()
	})
	pipe := func(in net.Conn) {
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		stop := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
		defer stop()
		var back sync.WaitGroup
		back.Go(func() {
			io.Copy(in, out) //nolint:errcheck // either end closes
			in.Close()
		})
		io.Copy(out, in) //nolint:errcheck // likewise
		out.Close()
		back.Wait()
	}
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { pipe(c) })
		}
	})
}

// writeKubeconfig writes a file by which a server is reached at another address.
func writeKubeconfig(t *testing.T, path string, is *rest.Config, at netip.AddrPort, name string) {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + at.String(), CertificateAuthorityData: is.CAData, TLSServerName: name}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: is.CertData, ClientKeyData: is.KeyData, Token: is.BearerToken}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
}

// LB-01, LB-02, LB-03: on an API server that knows nothing of load balancers two agents give
// a Service an address, one answers for it on the LAN, and the other does when that node is
// lost.
func TestAgentsOnAForeignCluster(t *testing.T) {
	l := newLAN(t)
	server := apitest.Start(t)
	api, client := rig.NewHost(t, "api"), rig.NewHost(t, "client")
	l.Connect(t, api, netip.MustParsePrefix("192.0.2.100/24"))
	l.Connect(t, client, netip.MustParsePrefix("192.0.2.101/24"))
	at, vip := netip.MustParseAddrPort("192.0.2.100:6443"), netip.MustParseAddrPort("192.0.2.200:80")
	to, err := url.Parse(server.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	relay(t, api, at, to.Host)
	ctx := t.Context()
	for _, name := range []string{"default", "kube-system"} { // a controller's work
		_, err := server.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	hosts := map[string]*host{}
	ready, port, protocol := true, int32(8080), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}},
	}
	for i, name := range []string{"a", "b"} {
		h := l.host(t, name)
		hosts[name] = h
		h.ServeTCP(t, netip.AddrPortFrom(h.ipv4, uint16(port)))
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{h.ipv4.String()}, NodeName: &name, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
		// The cluster's own controllers cut the ranges of pods.
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.244.%d.0/24", i)}}
		node.Spec.PodCIDRs = []string{node.Spec.PodCIDR}
		if _, err := server.Kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		kubeconfig := filepath.Join(h.dir, "kubeconfig")
		writeKubeconfig(t, kubeconfig, server.Config, at, cmp.Or(server.Config.ServerName, to.Hostname()))
		h.start("agent", "--kubeconfig", kubeconfig, "--node-name", name, "--node-ip", h.ipv4.String(), "--vm", "off")
	}
	objects, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		kind     string
		resource schema.GroupVersionResource
		spec     map[string]any
	}{
		{"IPAddressPool", metallb.Pools, map[string]any{"addresses": []any{vip.Addr().String() + "/32"}}},
		{"L2Advertisement", metallb.L2Advertisements, map[string]any{}},
	} {
		hosts["a"].until("an agent has defined "+o.kind, func() error {
			_, err := objects.Resource(o.resource).Namespace(core.Namespace).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "metallb.io/v1beta1", "kind": o.kind, "metadata": map[string]any{"name": "lan"}, "spec": o.spec,
			}}, metav1.CreateOptions{})
			return err
		})
	}
	if _, err := server.Kube.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Kube.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	answers := func(allowed ...string) (holder string) {
		t.Helper()
		hosts[allowed[0]].until(fmt.Sprintf("one of %v answers the client", allowed), func() error {
			a, err := client.Ask("tcp", vip)
			if err != nil {
				return err
			}
			for _, name := range allowed {
				if hosts[name].ipv4 == a.Server.Addr() {
					holder = name
					return nil
				}
			}
			return fmt.Errorf("%v does", a)
		})
		return holder
	}
	holder := answers("a", "b")
	other := map[string]string{"a": "b", "b": "a"}[holder]
	hosts[other].until("both agents know who has the address", func() error {
		out, err := hosts[other].run("announce", "--data-dir", hosts[other].dir, "--simulate-loss", holder)
		if err == nil && (!strings.Contains(out, vip.Addr().String()) || !strings.Contains(out, other)) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	l.Unplug(t, hosts[holder].Host)
	hosts[holder].signal(syscall.SIGKILL)
	answers(other)
}
