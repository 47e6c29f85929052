package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/apiserver"
)

const (
	// writers is how many connections the load comes from.
	writers = 8
	// heartbeat is how often a kubelet renews its Lease: nodes without are given up after
	// 40 s, and their pods aren't ready any more.
	heartbeat = 10 * time.Second
	// maxServices: each has a pod, with an address of its own in 10.244.0.0/16.
	maxServices = 50_000

	namespace  = "/api/v1/namespaces/default"
	nodeLeases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
)

// name is that of a Service and of its pod.
func name(n int) string { return fmt.Sprintf("s%05d", n) }

// load is what writes, by several connections.
type load struct {
	server  *apiserver.Server
	clients []*apiclient.Client
	answers []bytes.Buffer // of each
}

func newLoad(ctx context.Context, s *apiserver.Server) (*load, error) {
	l := &load{server: s, answers: make([]bytes.Buffer, writers)}
	for range writers {
		c, err := apiclient.Dial(ctx, s.Access, false)
		if err != nil {
			l.close()
			return nil, err
		}
		l.clients = append(l.clients, c)
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.clients {
		c.Close()
	}
}

// request is one write.
type request struct{ method, path, contentType, body string }

func post(path, body string) request { return request{"POST", path, "application/json", body} }

// each sends the requests for 0 to n-1, as fast as all connections can.
func (l *load) each(ctx context.Context, n int, of func(n int) request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for w := range l.clients {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := l.send(w, of(i)); err != nil {
					cancel(err)
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

func (l *load) send(w int, r request) error {
	return l.clients[w].Must(r.method, r.path, r.contentType, []byte(r.body), &l.answers[w])
}

// once sends a request until it succeeds: on a new server namespaces may come a moment
// after it is ready.
func (l *load) once(ctx context.Context, r request) error {
	return l.server.Wait(ctx, func(context.Context) error { return l.send(0, r) })
}

// makeNode makes a node and its Lease, and what pods need besides.
func (l *load) makeNode(ctx context.Context) error {
	const node = `{"apiVersion":"v1","kind":"Node","metadata":{"name":"node"}}`
	const lease = `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"node"},"spec":{"holderIdentity":"node","leaseDurationSeconds":40}}`
	for _, r := range []request{
		post("/api/v1/nodes", node),
		post(nodeLeases, lease),
		// The peer has no controller that makes it.
		{"PATCH", namespace + "/serviceaccounts/default?fieldManager=bench", "application/apply-patch+yaml", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}`},
	} {
		if err := l.once(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// makePods makes pods on the node that are ready.
func (l *load) makePods(ctx context.Context, pods int) error {
	if err := l.each(ctx, pods, func(n int) request {
		return post(namespace+"/pods", fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":%[1]q}},
			"spec":{"nodeName":"node","containers":[{"name":"c","image":"none"}]}}`, name(n)))
	}); err != nil {
		return err
	}
	return l.each(ctx, pods, func(n int) request { return readiness(n, true) })
}

func service(n int) request {
	return post(namespace+"/services", fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},
		"spec":{"selector":{"app":%[1]q},"ports":[{"name":"http","port":80,"targetPort":8080}]}}`, name(n)))
}

// readiness says of a pod whether it is ready, as its kubelet does.
func readiness(n int, ready bool) request {
	status := "False"
	if ready {
		status = "True"
	}
	address := fmt.Sprintf("10.244.%d.%d", n/250, n%250+2)
	return request{
		"PATCH", namespace + "/pods/" + name(n) + "/status", "application/strategic-merge-patch+json",
		fmt.Sprintf(`{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%[1]q}],"conditions":[{"type":"Ready","status":%q}]}}`, address, status),
	}
}

// revision is the store's, which grows by one with each write.
func (l *load) revision() (int64, error) {
	if err := l.send(0, request{method: "GET", path: "/api/v1/nodes?limit=1"}); err != nil {
		return 0, err
	}
	var list struct {
		Metadata struct {
			ResourceVersion int64 `json:",string"`
		}
	}
	if err := json.Unmarshal(l.answers[0].Bytes(), &list); err != nil {
		return 0, fmt.Errorf("read the store's revision: %w", err)
	}
	return list.Metadata.ResourceVersion, nil
}

// alive renews the node's Lease until ctx ends.
func alive(ctx context.Context, s *apiserver.Server) error {
	c, err := apiclient.Dial(ctx, s.Access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		body := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
		if err := c.Must("PATCH", nodeLeases+"/node", "application/merge-patch+json", body, &bytes.Buffer{}); err != nil {
			return fmt.Errorf("renew the node's Lease: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
