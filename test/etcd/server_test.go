package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// server is a `portico up --no-agent`.
type server struct {
	*process
	dir    string
	config *rest.Config
	kube   kubernetes.Interface
}

// startServer starts one on dir and waits until it is ready.
func startServer(t testing.TB, dir string, more ...string) *server {
	t.Helper()
	s := &server{dir: dir, process: start(t, rolePortico, upArgs(dir, more...)...)}
	eventually(t, time.Minute, "the API is ready", func() bool {
		select {
		case <-s.Ended:
			t.Fatalf("portico up ended:\n%s", s.log)
		default:
		}
		return strings.Contains(s.log.String(), "The API is ready")
	})
	var err error
	if s.config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	s.config.QPS = -1
	if s.kube, err = kubernetes.NewForConfig(s.config); err != nil {
		t.Fatal(err)
	}
	return s
}

func upArgs(dir string, more ...string) []string {
	return append([]string{"up", "--no-agent", "--data-dir", dir, "--listen", "127.0.0.1:0"}, more...)
}

// get reads a raw path.
func (s *server) get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	raw, err := s.kube.CoreV1().RESTClient().Get().RequestURI(path).DoRaw(ctx)
	return string(raw), err
}

// create makes a Service with two claims of the allocators' choice: an address and a
// node port.
func create(ctx context.Context, kube kubernetes.Interface, name string) (*corev1.Service, error) {
	return kube.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{})
}

// copyKeys gives a data directory the keys of another one's cluster.
func copyKeys(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(to, "pki")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(to, "pki"), os.DirFS(filepath.Join(from, "pki"))); err != nil {
		t.Fatal(err)
	}
}

// holdings are what Services hold, by the store's claims and by the objects themselves.
// They must be the same, and nothing may be held twice.
func checkClaims(t testing.TB, claims map[string]string, services []corev1.Service) {
	t.Helper()
	want := map[string]string{}
	hold := func(svc *corev1.Service, key string) {
		if other, ok := want[key]; ok && other != string(svc.UID) {
			t.Errorf("%s is held twice", key)
		}
		want[key] = string(svc.UID)
	}
	for i := range services {
		svc := &services[i]
		for _, ip := range svc.Spec.ClusterIPs {
			if ip != corev1.ClusterIPNone {
				hold(svc, "ip/"+ip)
			}
		}
		for _, p := range svc.Spec.Ports {
			if p.NodePort != 0 {
				hold(svc, fmt.Sprintf("nodeport/%d", p.NodePort))
			}
		}
	}
	for key, owner := range want {
		if claims[key] != owner {
			t.Errorf("%s should be %s's and is %q's", key, owner, claims[key])
		}
	}
	for key := range claims {
		if _, ok := want[key]; !ok && (strings.HasPrefix(key, "ip/") || strings.HasPrefix(key, "nodeport/")) {
			t.Errorf("%s is held by nobody's Service", key)
		}
	}
}

// storedClaims reads the claims from etcd itself.
func storedClaims(t testing.TB, c *clientv3.Client) map[string]string {
	t.Helper()
	const root = "/registry/portico/claims/"
	resp, err := c.Get(t.Context(), root, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		out[strings.TrimPrefix(string(kv.Key), root)] = string(kv.Value)
	}
	return out
}

func listServices(t testing.TB, kube kubernetes.Interface) []corev1.Service {
	t.Helper()
	list, err := kube.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// text makes what two lists of Services have in common comparable.
func text(t testing.TB, services []corev1.Service) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, svc := range services {
		raw, err := json.Marshal(svc)
		if err != nil {
			t.Fatal(err)
		}
		out[svc.Namespace+"/"+svc.Name] = string(raw)
	}
	return out
}
