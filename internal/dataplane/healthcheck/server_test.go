package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// freePort gives a port that nobody has now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func view(port uint16, endpoints ...catalog.Endpoint) catalog.View {
	name := types.NamespacedName{Namespace: "shop", Name: "web"}
	return catalog.View{
		Name: name, Service: &catalog.Service{Name: name, ExternalLocal: true, HealthCheckNodePort: port},
		Slices: []*catalog.Slice{{Service: name, Endpoints: endpoints}, {Service: name, Endpoints: endpoints}},
	}
}

func at(addr, node string, ready, terminating bool) catalog.Endpoint {
	return catalog.Endpoint{Addr: netip.MustParseAddr(addr), Node: node, Ready: ready, Serving: true, Terminating: terminating}
}

// get asks until the answer is the wanted one: ports open in their own time.
func get(t *testing.T, port uint16, status int, weight string, healthy bool) {
	t.Helper()
	last := "no answer"
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			last = err.Error()
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Service             map[string]string
			LocalEndpoints      int
			ServiceProxyHealthy bool
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		last = fmt.Sprintf("%d %v %s", resp.StatusCode, resp.Header, body)
		if resp.StatusCode == status && resp.Header.Get("X-Load-Balancing-Endpoint-Weight") == weight && fmt.Sprint(got.LocalEndpoints) == weight &&
			got.ServiceProxyHealthy == healthy && got.Service["namespace"] == "shop" && got.Service["name"] == "web" &&
			resp.Header.Get("Content-Type") == "application/json" {
			return
		}
	}
	t.Fatalf("want %d with weight %s, got %s", status, weight, last)
}

// DP-07: 200 with a local ready endpoint and a healthy data plane, else 503; the
// weight is the number of endpoints.
func TestAnswers(t *testing.T) {
	sick := false
	health := make(chan bool, 1)
	s := New(Options{Addresses: []netip.Addr{loopback}, Healthy: func() error {
		select {
		case sick = <-health:
		default:
		}
		if sick {
			return errors.New("no kernel today")
		}
		return nil
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	port := freePort(t)
	s.Replace(&catalog.Node{Name: "a"}, []catalog.View{view(port, at("10.0.0.1", "a", true, false), at("10.0.0.2", "a", true, false), at("10.0.0.3", "b", true, false), at("fd00::1", "a", true, false))})
	get(t, port, http.StatusOK, "2", true)
	s.Update([]catalog.View{view(port, at("10.0.0.1", "a", false, true), at("10.0.0.3", "b", true, false))})
	get(t, port, http.StatusServiceUnavailable, "0", true)
	s.Update([]catalog.View{view(port, at("10.0.0.1", "a", true, false))})
	get(t, port, http.StatusOK, "1", true)
	health <- true
	get(t, port, http.StatusServiceUnavailable, "1", false)
	health <- false
	get(t, port, http.StatusOK, "1", true)

	next := freePort(t)
	s.Update([]catalog.View{view(next, at("10.0.0.1", "a", true, false))})
	get(t, next, http.StatusOK, "1", true)
	closed(t, port)
	cluster := view(next, at("10.0.0.1", "a", true, false))
	cluster.Service.ExternalLocal = false
	s.Update([]catalog.View{cluster})
	closed(t, next)
	s.Update([]catalog.View{view(next, at("10.0.0.1", "a", true, false))})
	get(t, next, http.StatusOK, "1", true)
	s.SetAddresses(nil)
	closed(t, next)
}

func closed(t *testing.T, port uint16) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return
		}
		c.Close()
	}
	t.Fatalf("port %d is still open", port)
}

// A port that somebody else has is tried again.
func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tick, asked := make(chan time.Time), make(chan bool, 10)
	s := New(Options{Addresses: []netip.Addr{loopback}, After: func(time.Duration) <-chan time.Time { asked <- true; return tick }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	s.Replace(&catalog.Node{Name: "a"}, []catalog.View{view(port, at("10.0.0.1", "a", true, false))})
	<-asked
	l.Close()
	tick <- time.Time{}
	get(t, port, http.StatusOK, "1", true)
}
