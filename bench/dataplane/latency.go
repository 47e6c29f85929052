package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/network"
)

const (
	// knockPause is between two connections that look where the door leads: it is how
	// fine a change is seen.
	knockPause = 300 * time.Microsecond
	// Between two changes lies a pause, and up to changeSpread more: an agent that
	// works at fixed times must not be met at the same point of them.
	changeSpread = 10 * time.Millisecond
	shortPause   = 40 * time.Millisecond
	// longPause is the peer's at rest: it waits a second after it has programmed
	// (--nftables-min-sync-period), which the next change is not to pay for.
	longPause = 1500 * time.Millisecond
	// leastChanges are timed however slow they are.
	leastChanges = 3
	// idleMost is how long a connection to the API may be without a request: it closes
	// those after a minute and a half.
	idleMost = 30 * time.Second
)

// doors are the two backends of one Service. They note when connections come.
type doors struct {
	listener net.Listener
	ended    chan struct{}

	mu     sync.Mutex // guards the following
	wanted netip.Addr
	came   chan time.Time
}

func openDoors(h *network.Host) (*doors, error) {
	d := &doors{ended: make(chan struct{})}
	err := h.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		d.listener, err = lc.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", doorPort))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the doors: %w", err)
	}
	go func() {
		defer close(d.ended)
		for {
			c, err := d.listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				d.note(c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				c.Close()
			}
		}
	}()
	return d, nil
}

func (d *doors) close() {
	d.listener.Close()
	<-d.ended
}

func (d *doors) note(at netip.Addr) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.came != nil && at == d.wanted {
		d.came <- now
		d.came = nil
	}
}

// expect gives the time of the next connection to that address.
func (d *doors) expect(at netip.Addr) <-chan time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted, d.came = at, make(chan time.Time, 1)
	return d.came
}

// knock connects to the door's Service again and again, until the returned function is
// called.
func (s *site) knock() (stop func()) {
	var over atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.client.Do(func() error {
			to := target(doorIP, servicePort)
			for !over.Load() {
				_ = tryDoor(&to, s.pace.timeout) // a door that nobody opens is a change that is never seen
				pause(max(knockPause, s.pace.between-tryPause))
			}
			return nil
		})
	}()
	return func() {
		over.Store(true)
		<-ended
	}
}

// watcher tells when the API's event of a change of the door comes to a client.
type watcher struct {
	client *apiclient.Client
	events chan time.Time
	ended  chan struct{}
}

func watchDoor(ctx context.Context, a apiclient.Access) (*watcher, error) {
	c, err := apiclient.Dial(ctx, a, false)
	if err != nil {
		return nil, err
	}
	from, err := revision(c, slicesPath)
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err == nil {
		_, err = c.Open("GET", slicesPath+"?watch=1&fieldSelector=metadata.name%3D"+doorName+"&resourceVersion="+from, "", nil)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("watch the door's slice: %w", err)
	}
	w := &watcher{client: c, events: make(chan time.Time, 16), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for {
			frame, err := c.Next()
			if err != nil {
				return // closed, or broken: then no event comes
			}
			if data, ok := frame.(*http2.DataFrame); ok && bytes.Contains(data.Data(), []byte(`"MODIFIED"`)) {
				w.events <- time.Now()
			}
		}
	}()
	return w, nil
}

func (w *watcher) close() {
	w.client.Close()
	for {
		select {
		case <-w.events: // it may wait for somebody to take one
		case <-w.ended:
			return
		}
	}
}

// delays are how long changes took until the first packet on the new backend.
type delays struct {
	write, event []time.Duration // from the request's start, and from a watcher's event
}

// change times changes of one endpoint: at most n, or as many as fit into the
// time.
func (p *plan) change(ctx context.Context, w *world, s *site, n int, between, most time.Duration) (out delays, err error) {
	stop := s.knock()
	defer stop()
	watch, err := watchDoor(ctx, w.access)
	if err != nil {
		return out, err
	}
	defer watch.close()
	c, err := apiclient.Dial(ctx, w.access, false)
	if err != nil {
		return out, err
	}
	defer func() { c.Close() }()
	var answer bytes.Buffer
	begin, used := time.Now(), time.Now()
	for i := 0; i < n && (i < leastChanges || time.Since(begin) < most); i++ {
		pause(between + rand.N(changeSpread))
		if time.Since(used) > idleMost {
			c.Close()
			if c, err = apiclient.Dial(ctx, w.access, false); err != nil {
				return out, err
			}
		}
		next := 1 - w.door
		came := s.doors.expect(doorAddresses[next])
		began := time.Now()
		if err := w.setDoor(c, next, &answer); err != nil {
			return out, err
		}
		used = time.Now()
		var packet, event time.Time
		if err := s.await(ctx, came, func(t time.Time) { packet = t }); err != nil {
			return out, err
		}
		if err := s.await(ctx, watch.events, func(t time.Time) { event = t }); err != nil {
			return out, err
		}
		// The agent may have had the event before our watcher did.
		out.write, out.event = append(out.write, packet.Sub(began)), append(out.event, max(0, packet.Sub(event)))
	}
	return out, nil
}

// errUnseen says that a change didn't come to the packets in all the time that there is.
var errUnseen = errors.New("a change didn't come to the packets")

func (s *site) await(ctx context.Context, c <-chan time.Time, take func(time.Time)) error {
	select {
	case t := <-c:
		take(t)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(s.pace.patience):
		return fmt.Errorf("%w within %v", errUnseen, s.pace.patience)
	}
}

// put names the figures of one series of changes.
func (d delays) put(into *results, prefix, when string) {
	into.put(prefix+"api_to_packet_p50_ms_"+when, figure.Milliseconds(figure.Percentile(d.write, 50)))
	into.put(prefix+"api_to_packet_p99_ms_"+when, figure.Milliseconds(figure.Percentile(d.write, 99)))
	into.put(prefix+"api_to_packet_worst_ms_"+when, figure.Milliseconds(slices.Max(d.write)))
	into.put(prefix+"event_to_packet_p50_ms_"+when, figure.Milliseconds(figure.Percentile(d.event, 50)))
	into.put(prefix+"event_to_packet_p99_ms_"+when, figure.Milliseconds(figure.Percentile(d.event, 99)))
	into.put(prefix+"changes_timed_"+when, float64(len(d.write)))
}
