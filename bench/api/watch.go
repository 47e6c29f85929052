package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/figure"
)

// changePause lets a server finish with a change before the next one, and the garbage
// collector be where it likes.
const changePause = 100 * time.Millisecond

// Watched is a Service in a namespace of its own, without a selector: no controller
// changes it, and every event is one of ours.
const watchedNamespace, watchedPath = "/api/v1/namespaces", "/api/v1/namespaces/bench/services"

func (j *job) makeWatched(writer *apiclient.Client, answer *bytes.Buffer) error {
	if err := writer.Must("POST", watchedNamespace, "application/json",
		[]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}`), answer); err != nil {
		return err
	}
	return writer.Must("POST", watchedPath, "application/json",
		[]byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"watched"},"spec":{"ports":[{"name":"http","port":80,"targetPort":8080}]}}`), answer)
}

// watch changes one Service again and again, and tells how long after the request
// the last of all watchers has the event.
func (j *job) watch(ctx context.Context) (report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	writer, err := apiclient.Dial(ctx, j.Access, false)
	if err != nil {
		return report{}, err
	}
	defer writer.Close()
	clients, err := j.dialAll(ctx, j.Connections)
	if err != nil {
		return report{}, err
	}
	a := &audience{size: int64(j.Watchers), full: make(chan time.Time, 1)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		a.over.Store(true)
		for _, c := range clients {
			c.Close() // ends its reader
		}
	}()
	var answer bytes.Buffer
	if err := j.makeWatched(writer, &answer); err != nil {
		return report{}, err
	}
	if err := j.subscribe(ctx, writer, clients, &answer); err != nil {
		return report{}, err
	}
	for _, c := range clients {
		wg.Go(func() {
			if err := a.listen(c); err != nil {
				cancel(fmt.Errorf("a watch broke: %w", err))
			}
		})
	}
	var took []time.Duration
	for n := range j.Changes + 1 {
		d, err := a.change(ctx, writer, n, &answer)
		if err != nil {
			return report{}, err
		}
		if n > 0 { // the first one finds cold caches on both ends
			took = append(took, d)
		}
		time.Sleep(changePause)
	}
	return report{Step: 1, P50ms: figure.Milliseconds(figure.Percentile(took, 50)), P99ms: figure.Milliseconds(figure.Percentile(took, 99)), MaxMs: figure.Milliseconds(figure.Percentile(took, 100))}, nil
}

// subscribe opens all watches at the present revision and waits for their headers.
func (j *job) subscribe(ctx context.Context, writer *apiclient.Client, clients []*apiclient.Client, answer *bytes.Buffer) error {
	if err := writer.Must("GET", watchedPath+"?limit=1", "", nil, answer); err != nil {
		return err
	}
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(answer.Bytes(), &list); err != nil {
		return fmt.Errorf("read the list of Services: %w", err)
	}
	path := watchedPath + "?watch=1&timeoutSeconds=600&resourceVersion=" + list.Metadata.ResourceVersion
	for i, c := range clients {
		watches := (j.Watchers - i + len(clients) - 1) / len(clients)
		if err := c.SetDeadline(time.Now().Add(apiclient.CallTimeout)); err != nil {
			return err
		}
		for range watches {
			if _, err := c.Open("GET", path, "", nil); err != nil {
				return fmt.Errorf("open a watch: %w", err)
			}
		}
		for opened := 0; opened < watches; {
			frame, err := c.Next()
			if err != nil {
				return fmt.Errorf("open a watch: %w", err)
			}
			if f, ok := frame.(*http2.MetaHeadersFrame); ok {
				if opened++; f.PseudoValue("status") != "200" {
					return fmt.Errorf("open a watch: the server answers %s", f.PseudoValue("status"))
				}
			}
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// audience counts how many watchers have seen the present change.
type audience struct {
	size int64
	seen atomic.Int64
	full chan time.Time
	over atomic.Bool // the writer is through: broken connections are ours
}

// listen counts the events of one connection. An event is a line of JSON, and only a
// line's end is an end of line.
func (a *audience) listen(c *apiclient.Client) error {
	for {
		frame, err := c.Next()
		if err != nil {
			if a.over.Load() {
				return nil
			}
			return err
		}
		data, ok := frame.(*http2.DataFrame)
		if !ok {
			continue
		}
		if bytes.Contains(data.Data(), []byte(`"type":"ERROR"`)) {
			return fmt.Errorf("the server sends %s", data.Data())
		}
		if n := int64(bytes.Count(data.Data(), []byte("\n"))); n > 0 && a.seen.Add(n) == a.size {
			a.full <- time.Now()
		}
	}
}

func (a *audience) change(ctx context.Context, writer *apiclient.Client, n int, answer *bytes.Buffer) (time.Duration, error) {
	a.seen.Store(0)
	body := fmt.Appendf(nil, `{"metadata":{"annotations":{"bench.portico.dev/change":"%d"}}}`, n)
	begin := time.Now()
	if err := writer.Must("PATCH", watchedPath+"/watched", "application/merge-patch+json", body, answer); err != nil {
		return 0, err
	}
	select {
	case at := <-a.full:
		return at.Sub(begin), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-time.After(apiclient.CallTimeout):
		return 0, fmt.Errorf("only %d of %d watchers saw change %d within %v", a.seen.Load(), a.size, n, apiclient.CallTimeout)
	}
}
