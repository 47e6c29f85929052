package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// counting counts the connections that were accepted.
type counting struct {
	net.Listener
	accepted atomic.Int32
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

// countedServer speaks HTTP/2. Its handshakes take until slow is closed, as those of a busy
// server do: clients that don't wait for the first have dialled by then.
func countedServer(t *testing.T, slow <-chan struct{}) (*counting, *rest.Config) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "{}", http.StatusNotFound)
	}))
	listener := &counting{Listener: server.Listener}
	server.Listener, server.EnableHTTP2 = listener, true
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		<-slow
		return nil, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return listener, &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

// The clients of an agent share one connection from the first request on.
func TestAgentDialsOnce(t *testing.T) {
	slow := make(chan struct{})
	listener, config := countedServer(t, slow)
	config = asAgent(config)
	config.WrapTransport(nil).(*afterFirstDial).wait = time.Minute // a busy machine lets nobody give up
	kube, err := kubernetes.NewForConfig(inProtobuf(config))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() { _, _ = kube.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}) })
		group.Go(func() {
			_, _ = objects.Resource(schema.GroupVersionResource{Group: "metallb.io", Version: "v1beta1", Resource: "ipaddresspools"}).List(t.Context(), metav1.ListOptions{})
		})
	}
	time.AfterFunc(100*time.Millisecond, func() { close(slow) })
	group.Wait()
	if n := listener.accepted.Load(); n != 1 {
		t.Errorf("20 requests at once made %d connections; want 1", n)
	}
}

// One that hangs holds nobody up for long, and a request that is given up waits no more.
func TestFirstDialThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, release := make(chan struct{}), make(chan struct{})
		var first sync.Once
		config := &rest.Config{}
		dialOnce(config)
		transport := config.WrapTransport(roundTripper(func(r *http.Request) (*http.Response, error) {
			hangs := false
			first.Do(func() { hangs = true })
			if hangs {
				close(begun)
				<-release
			} else if trace := httptrace.ContextClientTrace(r.Context()); trace != nil {
				trace.GotConn(httptrace.GotConnInfo{})
			}
			return &http.Response{Body: http.NoBody}, nil
		}))
		ask := func(ctx context.Context, body io.Reader) (took time.Duration, err error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example/", body)
			if err != nil {
				return 0, err
			}
			began := time.Now()
			answer, err := transport.RoundTrip(r)
			if err == nil {
				_ = answer.Body.Close()
			}
			return time.Since(began), err
		}
		ended := make(chan error, 1)
		go func() {
			_, err := ask(t.Context(), http.NoBody)
			ended <- err
		}()
		<-begun
		gone, cancel := context.WithTimeout(t.Context(), firstWait/2)
		defer cancel()
		var body closing
		if took, err := ask(gone, &body); !errors.Is(err, context.DeadlineExceeded) || took != firstWait/2 || !body.closed {
			t.Errorf("a request that was given up took %v: %v; its body is closed: %v", took, err, body.closed)
		}
		if took, err := ask(t.Context(), http.NoBody); err != nil || took != firstWait {
			t.Errorf("a request behind one that hangs took %v: %v", took, err)
		}
		if took, err := ask(t.Context(), http.NoBody); err != nil || took != 0 {
			t.Errorf("a request after one that got a connection took %v: %v", took, err)
		}
		close(release)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// closing is a request's body.
type closing struct{ closed bool }

func (c *closing) Read([]byte) (int, error) { return 0, io.EOF }

func (c *closing) Close() error {
	c.closed = true
	return nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
