package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

// patience is how long servers and agents may take on a busy machine.
const patience = 5 * time.Minute

// world is the API with its objects, and the sites.
type world struct {
	dir     string
	portico string
	hub     *hub
	api     *process.Process
	access  apiclient.Access
	config  string      // kubeconfig of the nodes
	made    int         // Services
	door    int         // the backend that its Service leads to
	changes map[int]int // of each Service's endpoints
	sites   map[string]*site
	starts  int
	look    time.Duration // for so long servers must be quiet, some times, before a measurement
}

// newWorld starts the API: ours, as it takes objects much faster than the peer's. Both
// contenders get the same from it.
func newWorld(ctx context.Context, dir, portico string, look time.Duration) (_ *world, err error) {
	w := &world{dir: dir, portico: portico, look: look, sites: map[string]*site{}, changes: map[int]int{}, config: filepath.Join(dir, "node.kubeconfig")}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.hub, err = newHub(); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if w.api, err = process.Launch(dir, "api", portico, "up", "--no-agent", "--data-dir", data, "--listen", "127.0.0.1:6443",
		"--advertise-address", apiAddress.String(), "--cluster-cidr", clusterRange.String(), "--node-name", "api"); err != nil {
		return nil, err
	}
	if err := w.api.Wait(ctx, patience, func(ctx context.Context) (err error) {
		if w.access, err = apiclient.ReadKubeconfig(filepath.Join(data, "kubeconfig")); err != nil {
			return err
		}
		return apiclient.IsReady(ctx, w.access)
	}); err != nil {
		return nil, err
	}
	if err := apiclient.WriteKubeconfig(w.config, apiAddress.String()+":6443", w.access); err != nil {
		return nil, err
	}
	return w, w.with(ctx, makeDoor)
}

// with runs f with a connection to the API.
func (w *world) with(ctx context.Context, f func(*apiclient.Client) error) error {
	c, err := apiclient.Dial(ctx, w.access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func (w *world) close() {
	for _, s := range w.sites {
		s.close()
	}
	w.api.Stop()
}

// grow makes Services until there are so many.
func (w *world) grow(ctx context.Context, size int) error {
	if err := makeServices(ctx, w.access, w.made, size); err != nil {
		return fmt.Errorf("make %d Services: %w", size, err)
	}
	w.made = size
	return w.settle(ctx)
}

// site gives the site of that name, a new one where there is none.
func (w *world) site(name string) (*site, error) {
	if s := w.sites[name]; s != nil {
		return s, nil
	}
	s, err := w.hub.newSite(name)
	if err != nil {
		return nil, fmt.Errorf("make the site %s: %w", name, err)
	}
	w.sites[name] = s
	return s, nil
}

// newSite gives a site of that name on which nothing was programmed yet.
func (w *world) newSite(name string) (*site, error) {
	if w.sites[name] != nil {
		w.forget(name)
	}
	return w.site(name)
}

// forget removes a site, with all that was programmed there.
func (w *world) forget(name string) {
	w.sites[name].close()
	delete(w.sites, name)
}

// running is a contender at work on its site.
type running struct {
	*process.Process
	contender contender
	site      *site
	began     time.Time
}

// start starts a contender on its site and waits for nothing. The wrapper is a program,
// if any, that starts the contender.
func (w *world) start(ctx context.Context, c contender, wrapper ...string) (*running, error) {
	s, err := w.site(c.name)
	if err != nil {
		return nil, err
	}
	if err := w.with(ctx, func(client *apiclient.Client) error { return c.prepare(client, s) }); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", c.name, err)
	}
	w.starts++
	r := &running{contender: c, site: s, began: time.Now()}
	r.Process, err = process.Launch(w.dir, fmt.Sprintf("%s-%d", c.name, w.starts), slices.Concat(wrapper, s.node.Enter(), c.argv(w, s))...)
	return r, err
}

// run starts a contender and waits until its kernel knows all Services.
func (w *world) run(ctx context.Context, c contender, size int) (*running, error) {
	r, err := w.start(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, err := r.programmed(ctx, size); err != nil {
		r.Kill()
		return nil, fmt.Errorf("start %s with %d Services: %w", c.name, size, err)
	}
	return r, nil
}

const (
	quietLooks = 3
	quietPart  = 10 // of a processor's time is what idle servers may use
)

// settle waits until the API and those that run have done what was left to do.
func (w *world) settle(ctx context.Context, more ...*running) error {
	all := []*process.Process{w.api}
	for _, r := range more {
		all = append(all, r.Process)
	}
	used := func() (sum time.Duration, err error) {
		for _, p := range all {
			t, err := p.Times()
			if err != nil {
				return 0, err
			}
			sum += t.Total()
		}
		return sum, nil
	}
	deadline := time.Now().Add(patience)
	for quiet := 0; quiet < quietLooks; quiet++ {
		before, err := used()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(w.look):
		}
		after, err := used()
		if err != nil {
			return err
		}
		if after-before > w.look/quietPart {
			quiet = -1
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the processes are still busy after %v", patience)
		}
	}
	return nil
}

// setDoor has the door's Service lead to one of its two backends.
func (w *world) setDoor(c *apiclient.Client, to int, answer *bytes.Buffer) error {
	body := fmt.Appendf(nil, `{"endpoints":%s}`, endpoints(doorAddresses[to:to+1]))
	w.door = to
	return c.Must("PATCH", slicesPath+"/"+doorName, mergePatch, body, answer)
}
