package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/routes/nstest"
)

// Addresses of a link in the tests' own network namespace.
var (
	first  = netip.MustParseAddr("198.51.100.7")
	second = netip.MustParseAddr("198.51.100.8")
	v6     = netip.MustParseAddr("2001:db8:7::7")
)

// world is an API server beside backends on addresses that it may connect to.
type world struct {
	*apitest.Server
	client    *http.Client
	config    *tls.Config
	namespace string
}

// newWorld is shared by all tests: a start takes seconds on busy cores.
func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.Need(t)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "backends"}}); err != nil {
		t.Fatal(err)
	}
	if err := nstest.Up("backends", first.String()+"/24", second.String()+"/24", v6.String()+"/64"); err != nil {
		t.Fatal(err)
	}
	s := apitest.Start(t)
	config, err := rest.TLSConfigFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = nil
	w := &world{Server: s, config: config}
	w.client = &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(w.client.CloseIdleConnections)
	return w
}

// in is the world of one test, with a namespace of its own.
func (w *world) in(t *testing.T, namespace string) *world {
	t.Helper()
	if _, err := w.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	own := *w
	own.namespace = namespace
	return &own
}

// services and pods are where the API's paths of one test begin.
func (w *world) services() string { return "/api/v1/namespaces/" + w.namespace + "/services/" }
func (w *world) pods() string     { return "/api/v1/namespaces/" + w.namespace + "/pods/" }

// pod makes a pod that says to have these addresses, as its node would.
func (w *world) pod(t *testing.T, name string, addrs ...netip.Addr) *corev1.Pod {
	t.Helper()
	pods := w.Kube.CoreV1().Pods(w.namespace)
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "first", ContainerPort: 8080}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status := corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addrs[0].String()}
	for _, a := range addrs {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	raw, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := pods.Patch(t.Context(), name, types.MergePatchType, raw, metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// service makes a Service with the port 80 "http" and the port 443 "tls".
func (w *world) service(t *testing.T, name string) {
	t.Helper()
	_, err := w.Kube.CoreV1().Services(w.namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("first")}, {Name: "tls", Port: 443},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// slice makes a slice of a Service; ports are those of "http" and "tls".
func (w *world) slice(t *testing.T, service, name string, httpPort, tlsPort uint16, endpoints ...discoveryv1.Endpoint) {
	t.Helper()
	port := func(name string, n uint16) discoveryv1.EndpointPort {
		number, protocol := int32(n), corev1.ProtocolTCP
		return discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol}
	}
	family := discoveryv1.AddressTypeIPv4
	if len(endpoints) > 0 && netip.MustParseAddr(endpoints[0].Addresses[0]).Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	_, err := w.Kube.DiscoveryV1().EndpointSlices(w.namespace).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: family, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{port("http", httpPort), port("tls", tlsPort)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// of is a ready endpoint of a pod.
func of(pod *corev1.Pod, addr netip.Addr) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{addr.String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
}

// backend serves HTTP on an address; it returns the port.
func backend(t *testing.T, addr netip.Addr, handler http.Handler, tlsWith *certs.Authority) uint16 {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler} //nolint:gosec // for tests
	if tlsWith != nil {
		cert, key, err := tlsWith.Server("backend", []string{"another.example"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}} //nolint:gosec // for tests
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		if tlsWith != nil {
			_ = server.ServeTLS(l, "", "")
			return
		}
		_ = server.Serve(l)
	})
	t.Cleanup(func() {
		_ = server.Close()
		ended.Wait()
	})
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// told answers with what it was asked.
func told(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		w.Header().Set("X-Authorization", req.Header.Get("Authorization"))
		fmt.Fprintf(w, "%s: %s %s %s", name, req.Method, req.URL, body)
	})
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (w *world) request(ctx context.Context, t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, w.Config.Host+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.Config.BearerToken)
	return req
}

func (w *world) ask(t *testing.T, method, path, body string) answer {
	t.Helper()
	res, err := w.client.Do(w.request(t.Context(), t, method, path, body))
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{res.StatusCode, res.Header, string(raw)}
}
