package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

// churnRate is how many changes of one endpoint come in a second.
const churnRate = 100

// slowTimes is how much longer the peer is watched where its changes take seconds.
const slowTimes = 3

// churner changes one endpoint of any Service again and again, until it is stopped.
type churner struct {
	stop func()
	made int   // once it was stopped
	err  error // likewise
}

// churn starts one among the first size Services. There is one at a time.
func (w *world) churn(ctx context.Context, size int) (*churner, error) {
	c, err := apiclient.Dial(ctx, w.access, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	out := &churner{}
	var group sync.WaitGroup
	group.Go(func() {
		defer c.Close()
		ticker := time.NewTicker(time.Second / churnRate)
		defer ticker.Stop()
		var answer bytes.Buffer
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C: // one that is late is left out: figures are by changes made
			}
			i := rand.IntN(size)
			w.changes[i]++
			body := fmt.Appendf(nil, `{"endpoints":%s}`, endpoints(changed(i, w.changes[i])))
			if out.err = c.Must("PATCH", slicesPath+"/"+serviceName(i), mergePatch, body, &answer); out.err != nil {
				return
			}
			out.made++
		}
	})
	out.stop = func() {
		cancel()
		group.Wait()
	}
	return out, nil
}

// agents measures each contender at work: memory, changes at rest, and both again under
// changes of others.
func (p *plan) agents(ctx context.Context, w *world, size int, into *results) error {
	for _, c := range p.contenders() {
		if !c.takes(size) {
			continue
		}
		r, err := w.run(ctx, c, size)
		if err == nil {
			err = p.agent(ctx, w, r, size, into)
			r.Kill()
		}
		if err != nil {
			return fmt.Errorf("measure %s with %d Services: %w", c.name, size, err)
		}
	}
	return nil
}

func (p *plan) agent(ctx context.Context, w *world, r *running, size int, into *results) error {
	if err := w.settle(ctx, r); err != nil {
		return err
	}
	if p.does(partMemory) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(p.idle):
		}
		m, err := r.Memory()
		if err != nil {
			return err
		}
		into.memory(r.contender, short(size), m)
	}
	most, between := p.churn, shortPause
	if r.contender.peer {
		most, between = most*slowTimes, longPause
	}
	if p.does(partLatency) {
		rest, err := p.change(ctx, w, r.site, p.changes, between, most)
		if err != nil {
			return err
		}
		rest.put(into, r.contender.prefix, short(size))
	}
	if err := p.underChurn(ctx, w, r, size, most, into); err != nil {
		return err
	}
	if !r.contender.traced || !p.does(partLatency) {
		return nil
	}
	us, ok, err := w.oneEndpoint(ctx, r, size)
	if ok {
		into.put("one_endpoint_us_nft_"+short(size), us)
	}
	return err
}

// underChurn measures changes, processors and memory while others change.
func (p *plan) underChurn(ctx context.Context, w *world, r *running, size int, most time.Duration, into *results) error {
	when := short(size) + "_churn"
	peak := r.watchMemory()
	defer peak()
	before, err := r.Times()
	if err != nil {
		return err
	}
	began := time.Now()
	churner, err := w.churn(ctx, size)
	if err != nil {
		return err
	}
	defer churner.stop()
	var d delays
	if p.does(partLatency) {
		if d, err = p.change(ctx, w, r.site, p.changes, shortPause, most); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.churn - time.Since(began)):
	}
	churner.stop()
	window := time.Since(began)
	after, err := r.Times()
	if err != nil {
		return err
	}
	if churner.err != nil {
		return fmt.Errorf("change endpoints: %w", churner.err)
	}
	changes := float64(churner.made + len(d.write))
	if p.does(partLatency) {
		d.put(into, r.contender.prefix, when)
	}
	used := after.Minus(before)
	into.put(r.contender.agent+"cpu_percent_"+when, 100*used.Total().Seconds()/window.Seconds())
	into.put(r.contender.agent+"changes_per_second_"+when, changes/window.Seconds())
	into.memory(r.contender, when, peak())
	return nil
}

// watchMemory notes the most memory until the returned function is called, which says
// how much it was. A reading that fails shows no peak; the reading of times then fails
// the round.
func (r *running) watchMemory() func() process.Memory {
	var most process.Memory
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			if m, err := r.Memory(); err == nil {
				most = process.Memory{Resident: max(most.Resident, m.Resident), Anonymous: max(most.Anonymous, m.Anonymous)}
			}
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	}()
	return sync.OnceValue(func() process.Memory {
		close(done)
		<-ended
		return most
	})
}
