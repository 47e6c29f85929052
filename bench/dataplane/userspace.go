package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/network"
	"portico.dev/portico/bench/process"
)

const (
	userspacePrefix = "userspace_"
	idlePort        = 8092

	idleWanted = 50_000
	// idleBackends share the idle connections: to one address and port a host has some
	// 28,000 ports.
	idleBackends = 10
	// idleRest is longer than an idle connection keeps a goroutine.
	idleRest = 5 * time.Second
)

var (
	idleIP    = netip.MustParseAddr("10.108.0.3")
	firstIdle = netip.MustParseAddr("10.190.0.1")
)

// inUserspace measures our agent in the userspace mode: starts, changes of one endpoint,
// and once what it carries.
func (p *plan) inUserspace(ctx context.Context, w *world, size int, into *results) error {
	c := p.ours("portico-userspace", "userspace", nil)
	c.prefix = userspacePrefix
	for range p.programRounds {
		if err := w.settle(ctx); err != nil {
			return err
		}
		r, err := w.start(ctx, c)
		if err != nil {
			return err
		}
		took, err := r.programmed(ctx, size)
		r.Kill()
		w.forget(c.name)
		if err != nil {
			return fmt.Errorf("start %s with %d Services: %w", c.name, size, err)
		}
		into.put(c.prefix+"program_"+short(size)+"_seconds", took.wall.Seconds())
		into.put(c.prefix+"program_"+short(size)+"_cpu_seconds", took.used.Total().Seconds())
	}
	r, err := w.run(ctx, c, size)
	if err != nil {
		return err
	}
	defer w.forget(c.name)
	defer r.Kill()
	if err := w.settle(ctx, r); err != nil {
		return err
	}
	rest, err := p.change(ctx, w, r.site, p.changes, shortPause, p.churn)
	if err != nil {
		return err
	}
	rest.put(into, c.prefix, short(size))
	into.put(c.prefix+"one_endpoint_ms_"+short(size), figure.Milliseconds(figure.Percentile(rest.write, 50)))
	if size != p.latencySizes[0] {
		return nil
	}
	if err := w.streams(ctx, r, p.stream, into); err != nil {
		return fmt.Errorf("measure streams: %w", err)
	}
	if err := w.idle(ctx, r, p.idle, into); err != nil {
		return fmt.Errorf("measure idle connections: %w", err)
	}
	return nil
}

// make makes a Service with the given endpoints.
func (w *world) make(ctx context.Context, name string, body []byte, to []netip.Addr, port int) error {
	return w.with(ctx, func(c *apiclient.Client) error {
		var answer bytes.Buffer
		if err := c.Must("POST", servicesPath, applicationJSON, body, &answer); err != nil {
			return err
		}
		return c.Must("POST", slicesPath, applicationJSON, slice(name, to, port), &answer)
	})
}

// answers waits until something takes connections.
func answers(ctx context.Context, h *network.Host, to netip.AddrPort) error {
	return h.Do(func() (err error) {
		at := target(to.Addr(), int(to.Port()))
		for end := time.Now().Add(patience); time.Now().Before(end); pause(tryPause) {
			if err = tryDoor(&at, tryTimeout); err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		return fmt.Errorf("%s never answers: %w", to, err)
	})
}

func connect(ctx context.Context, h *network.Host, to netip.AddrPort) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		d := net.Dialer{Timeout: answerTimeout, KeepAlive: -1}
		d.SetMultipathTCP(false)
		c, err = d.DialContext(ctx, "tcp4", to.String())
		return err
	})
	return c, err
}

// holdOpen takes connections and what they send, until stop.
func holdOpen(h *network.Host, at string) (stop func(), err error) {
	var l net.Listener
	err = h.Do(func() (err error) {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), "tcp4", at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", at, err)
	}
	var group sync.WaitGroup
	var mu sync.Mutex // guards the following
	open := map[net.Conn]bool{}
	group.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			group.Go(func() {
				buffer := make([]byte, 1)
				if _, err := c.Read(buffer); err == nil { // idle ones need no buffer
					_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, streamBuffer))
				}
				c.Close()
				mu.Lock()
				defer mu.Unlock()
				delete(open, c)
			})
		}
	})
	return func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		group.Wait()
	}, nil
}

// idle opens many connections that say nothing, and reads the agent's memory. Where its
// limit of descriptors is too low for all, the figure for all is reckoned from what one
// takes.
func (w *world) idle(ctx context.Context, r *running, rest time.Duration, into *results) error {
	stop, err := holdOpen(r.site.backend, fmt.Sprintf(":%d", idlePort))
	if err != nil {
		return err
	}
	defer stop()
	var backends []netip.Addr
	for i := range idleBackends {
		backends = append(backends, plus(firstIdle, i))
	}
	if err := w.make(ctx, "idle", service("idle", idleIP, idlePort), backends, idlePort); err != nil {
		return err
	}
	to := netip.AddrPortFrom(idleIP, servicePort)
	if err := answers(ctx, r.site.client, to); err != nil {
		return err
	}
	count, err := idleRoom(r.ID())
	if err != nil {
		return err
	}
	read := func() (process.Memory, error) {
		select {
		case <-ctx.Done():
			return process.Memory{}, context.Cause(ctx)
		case <-time.After(rest + idleRest):
		}
		return r.Memory()
	}
	before, err := read()
	if err != nil {
		return err
	}
	var all []net.Conn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range count {
		c, err := connect(ctx, r.site.client, to)
		if err != nil {
			return fmt.Errorf("open idle connection %d of %d: %w", len(all), count, err)
		}
		all = append(all, c)
	}
	after, err := read()
	if err != nil {
		return err
	}
	each := (after.Resident - before.Resident) / float64(count)
	into.put(userspacePrefix+"idle_connections", float64(count))
	into.put(userspacePrefix+"idle_rss_mb", after.Resident)
	into.put(userspacePrefix+"idle_kb_each", each*1024)
	into.put(userspacePrefix+"idle_50k_mb", before.Resident+each*idleWanted)
	if count < idleWanted {
		into.note(fmt.Sprintf("%sidle_50k_mb is reckoned from %d connections: this host lets a process have no more descriptors", userspacePrefix, count))
	}
	return nil
}

// idleRoom is how many connections a process can carry, and this one be both ends of.
func idleRoom(id int) (int, error) {
	raised := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	_ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &raised, nil) // the next tells what there is
	var own unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &own); err != nil {
		return 0, fmt.Errorf("read the limit of descriptors: %w", err)
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/limits", id))
	if err != nil {
		return 0, fmt.Errorf("read the agent's limits: %w", err)
	}
	defer file.Close()
	const others = 1000 // descriptors that aren't for these connections
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var soft uint64
		if rest, ok := strings.CutPrefix(lines.Text(), "Max open files"); ok {
			if _, err := fmt.Sscan(rest, &soft); err != nil {
				return 0, fmt.Errorf("read the agent's limits: %w", err)
			}
			return int(min(idleWanted, soft*7/8/2-others/2, own.Cur/2-others/2)), nil
		}
	}
	return 0, errors.Join(errors.New("the agent's limits have no line on open files"), lines.Err())
}
