package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/figure"
)

// job is what the load process is told on its standard input.
type job struct {
	Access      apiclient.Access
	Phase       string // creates, gets or watch
	Clients     int
	Services    int
	Gets        int
	Watchers    int
	Connections int
	Changes     int
}

// report is what it answers on its standard output.
type report struct {
	// Rates are of each Step calls, one after the other.
	Step    int
	Rates   []float64
	Seconds float64
	P50ms   float64
	P99ms   float64
	MaxMs   float64
	// FirstP99ms and LastP99ms are of the first and the last Step calls.
	FirstP99ms, LastP99ms float64

	CPU processorUse `json:"-"` // of the server; the load process doesn't know it
}

const servicesPath = "/api/v1/namespaces/default/services"

func serviceName(n int) string { return fmt.Sprintf("svc-%05d", n) }

// load is the load process. It is one of its own, so that its work isn't counted as a
// server's memory, and the same for both servers.
func load(ctx context.Context) error {
	raw, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var j job
	if err := json.Unmarshal(raw, &j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var r report
	switch j.Phase {
	case "creates":
		r, err = j.creates(ctx)
	case "gets":
		r, err = j.gets(ctx)
	case "watch":
		r, err = j.watch(ctx)
	default:
		err = fmt.Errorf("the phase %q is unknown", j.Phase)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (j *job) creates(ctx context.Context) (report, error) {
	return j.calls(ctx, j.Services, func(c *apiclient.Client, n int, answer *bytes.Buffer) error {
		body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"labels":{"app":"web"}},`+
			`"spec":{"selector":{"app":%q},"ports":[{"name":"http","port":80,"targetPort":8080}]}}`, serviceName(n), serviceName(n))
		return c.Must("POST", servicesPath, "application/json", body, answer)
	})
}

func (j *job) gets(ctx context.Context) (report, error) {
	return j.calls(ctx, j.Gets, func(c *apiclient.Client, _ int, answer *bytes.Buffer) error {
		return c.Must("GET", servicesPath+"/"+serviceName(rand.IntN(j.Services)), "", nil, answer)
	})
}

// calls shares total calls among the clients, every second of which has a token.
func (j *job) calls(ctx context.Context, total int, call func(*apiclient.Client, int, *bytes.Buffer) error) (report, error) {
	clients, err := j.dialAll(ctx, j.Clients)
	if err != nil {
		return report{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	took, ended := make([]time.Duration, total), make([]time.Duration, total)
	begin := time.Now()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			defer c.Close()
			var answer bytes.Buffer
			for n := int(next.Add(1)) - 1; n < total && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				began := time.Now()
				if err := call(c, n, &answer); err != nil {
					cancel(err)
					return
				}
				took[n], ended[n] = time.Since(began), time.Since(begin)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return report{}, err
	}
	return summarize(took, ended), nil
}

func (j *job) dialAll(ctx context.Context, n int) ([]*apiclient.Client, error) {
	clients := make([]*apiclient.Client, n)
	for i := range clients {
		c, err := apiclient.Dial(ctx, j.Access, i%2 == 1 && j.Access.Token != "")
		if err != nil {
			return nil, err
		}
		clients[i] = c
	}
	return clients, nil
}

// summarize makes figures of how long calls took, and when they ended. The first and the
// last tenth tell what a growing store does to them.
func summarize(took, ended []time.Duration) report {
	r := report{Step: max(1, len(took)/10)}
	r.FirstP99ms = figure.Milliseconds(figure.Percentile(took[:r.Step], 99))
	r.LastP99ms = figure.Milliseconds(figure.Percentile(took[len(took)-r.Step:], 99))
	r.P50ms, r.P99ms = figure.Milliseconds(figure.Percentile(took, 50)), figure.Milliseconds(figure.Percentile(took, 99))
	r.MaxMs = figure.Milliseconds(slices.Max(took))
	slices.Sort(ended)
	r.Seconds = ended[len(ended)-1].Seconds()
	var before time.Duration
	for last := r.Step - 1; last < len(ended); last += r.Step {
		r.Rates = append(r.Rates, float64(r.Step)/(ended[last]-before).Seconds())
		before = ended[last]
	}
	return r
}
