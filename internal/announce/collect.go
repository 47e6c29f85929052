package announce

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/catalog"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/metallb"
)

// Part announces addresses in its own way.
type Part interface {
	// Set hands over all that decides, at first and whenever something changed. It must
	// not block for long. Nobody changes the value afterwards.
	Set(announcing.Input)
}

// leaver is a Part that has something to give up when its node leaves for good.
type leaver interface {
	Leave(ctx context.Context) error
}

// Config says where the input comes from.
type Config struct {
	Self    string // this node
	Client  kubernetes.Interface
	Objects dynamic.Interface // of the custom resources
	Log     *slog.Logger
}

// Collector makes the Input. It is an agent.Consumer.
type Collector struct {
	config Config
	parts  []Part
	wake   chan struct{} // capacity 1: something changed

	mu       sync.Mutex // guards the following
	services map[types.NamespacedName]catalog.View
	nodes    map[string]announcing.Node
	written  *core.Config
	pools    *pools.Set // of written
	listed   [sources]bool
}

// The sources that must be listed before anything is handed over: with half of them a
// part would give up what it should hold.
const (
	fromServices = iota
	fromNodes
	fromConfig
	sources
)

// NewCollector makes a Collector for parts; Run starts it.
func NewCollector(config Config, parts ...Part) *Collector {
	return &Collector{
		config: config, parts: parts, wake: make(chan struct{}, 1),
		services: map[types.NamespacedName]catalog.View{}, nodes: map[string]announcing.Node{},
	}
}

// Run watches Nodes and custom resources, and hands everything over until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { c.watchNodes(ctx) })
	failed := make(chan error, 1)
	group.Go(func() { failed <- metallb.Follow(ctx, c.config.Objects, c.config.Log, c.setConfig) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err != nil {
				return err
			}
			failed = nil
		case <-c.wake:
			if in, ok := c.input(); ok {
				for _, p := range c.parts {
					p.Set(in)
				}
			}
		}
	}
}

// Leave has this node announce nothing any more, for one that leaves the cluster: what
// others can take is theirs, and routers were told, when it returns. The agent that stops
// afterwards loses no connection but those that it has. There is no way back but a restart.
func (c *Collector) Leave(ctx context.Context) error {
	var group sync.WaitGroup
	errs := make([]error, len(c.parts))
	for i, p := range c.parts {
		if l, ok := p.(leaver); ok {
			group.Go(func() { errs[i] = l.Leave(ctx) })
		}
	}
	group.Wait()
	return errors.Join(errs...)
}

// Replace implements agent.Consumer.
func (c *Collector) Replace(_ *catalog.Node, views []catalog.View) {
	c.change(fromServices, func() {
		clear(c.services)
		for _, v := range views {
			c.put(v)
		}
	})
}

// Update implements agent.Consumer.
func (c *Collector) Update(views []catalog.View) {
	touched := false
	c.mu.Lock()
	for _, v := range views {
		touched = c.put(v) || touched
	}
	c.mu.Unlock()
	if touched { // most Services have no such address
		c.poke()
	}
}

// put keeps a Service with addresses, and tells whether it concerns us. mu is held.
func (c *Collector) put(v catalog.View) bool {
	_, had := c.services[v.Name]
	if v.Service == nil || v.Service.Type != corev1.ServiceTypeLoadBalancer || len(v.Service.Ingress) == 0 {
		delete(c.services, v.Name)
		return had
	}
	c.services[v.Name] = v
	return true
}

func (c *Collector) setConfig(written *core.Config) {
	set, _ := pools.Parse(written) // who gives addresses away says what is wrong with a pool
	c.change(fromConfig, func() { c.written, c.pools = written, set })
}

// change changes what mu guards; source has told all that it has.
func (c *Collector) change(source int, f func()) {
	c.mu.Lock()
	f()
	c.listed[source] = true
	c.mu.Unlock()
	c.poke()
}

func (c *Collector) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// input gives what parts are to know; false: not everything was listed yet.
func (c *Collector) input() (announcing.Input, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.listed[:], false) {
		return announcing.Input{}, false
	}
	in := announcing.Input{Config: c.written, Self: c.config.Self}
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		in.Nodes = append(in.Nodes, c.nodes[name])
	}
	for _, v := range c.services {
		s := announcing.Service{View: v, Labels: v.Service.Labels}
		for _, ingress := range v.Service.Ingress {
			if pool := c.pools.Find(ingress.IP); pool != nil {
				s.Addresses = append(s.Addresses, announcing.Address{Addr: ingress.IP, Pool: pool})
			}
		}
		if len(s.Addresses) > 0 {
			in.Services = append(in.Services, s)
		}
	}
	slices.SortFunc(in.Services, func(a, b announcing.Service) int {
		return announcing.CompareNames(a.Name, b.Name)
	})
	return in, true
}
