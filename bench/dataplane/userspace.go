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
	"slices"
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
	// plainCommand makes this program a proxy that carries and does nothing else.
	plainCommand = "plain-proxy"

	streamPort, plainPort, idlePort = 8090, 8091, 8092
	streamNodePort                  = 30900

	streamRounds = 7
	streamTime   = 2 * time.Second
	streamBuffer = 256 << 10

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
	if err := w.streams(ctx, r, into); err != nil {
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

// streams sends through our proxy, through a plain one and through none, by turns, all on
// the loopback link of one host.
func (w *world) streams(ctx context.Context, r *running, into *results) error {
	host, sinkAt := r.site.node, netip.AddrPortFrom(r.site.address, streamPort)
	stop, err := holdOpen(host, sinkAt.String())
	if err != nil {
		return err
	}
	defer stop()
	// By a node port: its route is by the loopback link, as the plain proxy's is. A cluster
	// IP's is by portico0, with an MTU of 1500.
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"stream"},"spec":{"type":"NodePort",`+
		`"ports":[{"name":"http","port":%d,"targetPort":%d,"nodePort":%d}]}}`, servicePort, streamPort, streamNodePort)
	if err := w.make(ctx, "stream", body, []netip.Addr{r.site.address}, streamPort); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	plainAt := netip.AddrPortFrom(r.site.address, plainPort)
	plain, err := process.Launch(w.dir, "plain-proxy", slices.Concat(host.Enter(), []string{self, plainCommand, plainAt.String(), sinkAt.String()})...)
	if err != nil {
		return err
	}
	defer plain.Kill()
	ways := []struct {
		name  string
		to    netip.AddrPort
		proxy *process.Process
	}{
		{userspacePrefix, netip.AddrPortFrom(r.site.address, streamNodePort), r.Process},
		{userspacePrefix + "plain_proxy_", plainAt, plain},
		{userspacePrefix + "no_proxy_", sinkAt, nil},
	}
	for _, way := range ways {
		if err := answers(ctx, host, way.to); err != nil {
			return err
		}
	}
	for range streamRounds {
		for _, way := range ways {
			var before, after process.Times
			if way.proxy != nil {
				if before, err = way.proxy.Times(); err != nil {
					return err
				}
			}
			sent, took, err := stream(ctx, host, way.to)
			if err != nil {
				return err
			}
			into.put(way.name+"gbits", float64(sent)*8/took.Seconds()/1e9)
			if way.proxy == nil {
				continue
			}
			if after, err = way.proxy.Times(); err != nil {
				return err
			}
			into.put(way.name+"cpu_seconds_per_gb", after.Minus(before).Total().Seconds()/(float64(sent)/1e9))
		}
	}
	return nil
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

// stream sends for a while, and tells how much.
func stream(ctx context.Context, h *network.Host, to netip.AddrPort) (sent int64, took time.Duration, err error) {
	c, err := connect(ctx, h, to)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	buffer, began := make([]byte, streamBuffer), time.Now()
	for time.Since(began) < streamTime {
		n, err := c.Write(buffer)
		if err != nil {
			return 0, 0, fmt.Errorf("send to %s: %w", to, err)
		}
		sent += int64(n)
	}
	return sent, time.Since(began), nil
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

// plainProxy carries from one address to another, as briefly as Go can say it.
func plainProxy(listen, to string) error {
	l, err := net.Listen("tcp4", listen)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			up, err := net.Dial("tcp4", to)
			if err != nil {
				return
			}
			defer up.Close()
			go io.Copy(c, up) //nolint:errcheck // its end ends the other
			io.Copy(up, c)    //nolint:errcheck // whichever end it was
		}()
	}
}
