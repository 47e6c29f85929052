package world

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// requestTimeout is far above what a request takes here, and far below a client's
// patience: an answer that comes later counts as a failure.
const requestTimeout = 3 * time.Second

// askMany makes n requests one after the other, each on a connection of its own; n
// below zero means until ctx ends.
func askMany(ctx context.Context, n int, url string) Tally {
	t := Tally{Answers: map[string]int{}}
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for i := 0; (n < 0 || i < n) && ctx.Err() == nil; i++ {
		// Not ctx: a request that has begun is to be answered.
		answer, err := get(context.WithoutCancel(ctx), client, url)
		if err != nil {
			t.Failures++
			if len(t.Errors) < 5 {
				t.Errors = append(t.Errors, err.Error())
			}
			continue
		}
		t.Answers[answer]++
	}
	return t
}

// streamTimeout is below a second, when a client's kernel tries again to connect (RFC
// 6298): what was answered by that was not answered at once.
const streamTimeout = 900 * time.Millisecond

// askEach begins a request each so often until ctx ends.
func askEach(ctx context.Context, each time.Duration, url string) Tally {
	t := Tally{Answers: map[string]int{}}
	client := &http.Client{Timeout: streamTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	var mu sync.Mutex // guards t and the following
	var answered []time.Time
	var group sync.WaitGroup
	tick := time.NewTicker(each)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-tick.C:
		}
		group.Go(func() {
			begin := time.Now()
			// Not ctx: a request that has begun is to be answered.
			answer, err := get(context.WithoutCancel(ctx), client, url)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Failures++
				return
			}
			t.Answers[answer]++
			answered = append(answered, begin)
		})
	}
	group.Wait()
	slices.SortFunc(answered, time.Time.Compare)
	for i := 1; i < len(answered); i++ {
		t.Gap = max(t.Gap, answered[i].Sub(answered[i-1]))
	}
	return t
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

// post asks a guest to do something and returns its answer.
func post(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s: %s", url, resp.Status, body)
	}
	return body, err
}

// maxChiSquare is passed by chance once in a million with two degrees of freedom
// (three guests): a test that fails by bad luck would prove nothing.
const maxChiSquare = 27.6

// Check wants every request answered, by every guest, as often by each.
func (t Tally) Check(guests ...string) error {
	total := 0
	for _, n := range t.Answers {
		total += n
	}
	if t.Failures > 0 {
		return fmt.Errorf("%d of %d requests failed: %s", t.Failures, total+t.Failures, strings.Join(t.Errors, "; "))
	}
	want, sum := float64(total)/float64(len(guests)), 0.0
	known := 0
	for _, g := range guests {
		n := t.Answers[g]
		known += n
		if n == 0 {
			return fmt.Errorf("%s never answered: %v", g, t.Answers)
		}
		sum += math.Pow(float64(n)-want, 2) / want
	}
	if known != total {
		return fmt.Errorf("somebody else answered: %v", t.Answers)
	}
	if sum > maxChiSquare {
		return fmt.Errorf("uneven: %v (chi-square %.1f, at most %.1f)", t.Answers, sum, maxChiSquare)
	}
	return nil
}
