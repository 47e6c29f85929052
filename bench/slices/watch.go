package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/apiserver"
)

// patience is how long slices may take to come; the peer's first 1,000 take a minute.
const patience = 5 * time.Minute

// watcher is a client that watches the slices.
type watcher struct {
	client *apiclient.Client
	rest   []byte // of an event that isn't whole yet

	mu      sync.Mutex // guards the following
	missing map[string]bool
	ready   bool // what the slices of those that are missing should say
	full    chan time.Time
	err     error // the watch broke
}

func newWatcher(ctx context.Context, s *apiserver.Server) (*watcher, error) {
	c, err := apiclient.Dial(ctx, s.Access, false)
	if err != nil {
		return nil, err
	}
	if _, err := c.Open("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=1&timeoutSeconds=3600", "", nil); err != nil {
		c.Close()
		return nil, err
	}
	return &watcher{client: c}, nil
}

// expect gives the time at which the last of the Services first n has slices that say
// whether its pod is ready. It must be called before the change.
func (w *watcher) expect(numbers []int, ready bool) <-chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missing, w.ready, w.full = map[string]bool{}, ready, make(chan time.Time, 1)
	for _, n := range numbers {
		w.missing[name(n)] = true
	}
	return w.full
}

// await waits for what was expected.
func (w *watcher) await(ctx context.Context, full <-chan time.Time) (time.Time, error) {
	select {
	case at, ok := <-full:
		if ok {
			return at, nil
		}
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	case <-time.After(patience):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Time{}, errors.Join(w.err, fmt.Errorf("%d slices have not come in %v", len(w.missing), patience))
}

// listen reads events until the connection is closed.
func (w *watcher) listen() {
	for {
		frame, err := w.client.Next()
		at := time.Now()
		if data, ok := frame.(*http2.DataFrame); ok && err == nil {
			err = w.take(data.Data(), at)
		}
		if err != nil {
			w.mu.Lock()
			w.err = fmt.Errorf("watch slices: %w", err)
			if w.full != nil && len(w.missing) > 0 {
				close(w.full)
			}
			w.mu.Unlock()
			return
		}
	}
}

// take looks at the events, a line each, that have become whole.
func (w *watcher) take(data []byte, at time.Time) error {
	w.rest = append(w.rest, data...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			w.rest = append(w.rest[:0], line...)
			return nil
		}
		w.rest = rest
		var event struct {
			Type   string
			Object struct {
				Metadata  struct{ Labels map[string]string }
				Endpoints []struct{ Conditions struct{ Ready bool } }
			}
		}
		if err := json.Unmarshal(line, &event); err != nil || event.Type == "ERROR" {
			return fmt.Errorf("the server sends %s", line)
		}
		if len(event.Object.Endpoints) > 0 {
			w.saw(event.Object.Metadata.Labels["kubernetes.io/service-name"], event.Object.Endpoints[0].Conditions.Ready, at)
		}
	}
}

func (w *watcher) saw(service string, ready bool, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ready == w.ready && w.missing[service] {
		if delete(w.missing, service); len(w.missing) == 0 {
			w.full <- at
		}
	}
}
