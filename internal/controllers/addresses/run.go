package addresses

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/kubevirt"
)

const (
	// mirrorWorkers hide the latency of writes: each new Service is one.
	mirrorWorkers = 4
	// checkPeriod is upstream's between two checks of all allocations.
	checkPeriod = 3 * time.Minute
	// byAddress is the index of Services by their cluster IPs.
	byAddress = "addresses"
)

// Claims are the claims as the store has them.
type Claims interface {
	// List reads all of them, and misses none that was granted before.
	List(context.Context) ([]ipam.Held, error)
	// Repair changes one if nothing it depends on has changed, and reports whether it did.
	Repair(context.Context, ipam.Repair) (bool, error)
}

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Machines kubevirt.Interface
	Claims   Claims
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: the log alone says what happens
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
	// Default are the ranges of the default ServiceCIDR, the primary family's first. It is
	// made again when somebody deleted it.
	Default []netip.Prefix
	// NodePortFirst and NodePortLast are the range of node ports, both ends included.
	NodePortFirst, NodePortLast uint16

	Period time.Duration // between two checks; 0: three minutes
}

// controller is one term of the controller.
type controller struct {
	Deps
	ports     *ipam.PortRange
	mirrors   *work.Queue[netip.Addr]
	ranges    *work.Queue[string] // names of ServiceCIDRs
	services  cache.Indexer
	addresses networkinglisters.IPAddressLister
	cidrs     networkinglisters.ServiceCIDRLister
}

// Run works until ctx ends. An error means that it could not begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	if d.Period == 0 {
		d.Period = checkPeriod
	}
	ports, err := ipam.NewPortRange(d.NodePortFirst, d.NodePortLast, nil)
	if err != nil {
		return err
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	services := view.Core().V1().Services().Informer()
	addresses, cidrs := view.Networking().V1().IPAddresses(), view.Networking().V1().ServiceCIDRs()
	c := &controller{
		Deps: d, ports: ports, mirrors: work.New[netip.Addr]("addresses", d.Log, d.Clock), ranges: work.New[string]("servicecidrs", d.Log, d.Clock),
		services: services.GetIndexer(), addresses: addresses.Lister(), cidrs: cidrs.Lister(),
	}
	view.Index(services, cache.Indexers{byAddress: indexByAddress})
	view.On(services, cache.ResourceEventHandlerFuncs{
		AddFunc: c.serviceSeen, DeleteFunc: c.serviceSeen,
		UpdateFunc: func(old, obj any) {
			c.serviceSeen(old) // what it has given up
			c.serviceSeen(obj)
		},
	})
	view.OnAny(addresses.Informer(), c.addressSeen)
	view.OnAny(cidrs.Informer(), c.rangeSeen)
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.ranges.Add(ipam.DefaultServiceCIDR) // also where there is none
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { c.mirrors.Run(ctx, mirrorWorkers, c.syncMirror) })
	running.Go(func() { c.ranges.Run(ctx, 1, c.syncRange) }) // one: each decision is about all of them
	c.checkAlways(ctx)
	return nil
}

func indexByAddress(obj any) ([]string, error) {
	var keys []string
	for _, addr := range addressesOf(obj) {
		keys = append(keys, caches.Bucket(addr.String()))
	}
	return keys, nil
}

// addressesOf gives the cluster IPs that a Service claims.
func addressesOf(obj any) []netip.Addr {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil
	}
	var out []netip.Addr
	for _, claim := range ipam.ServiceClaims(svc) {
		if addr, ok := claim.Addr(); ok {
			out = append(out, addr)
		}
	}
	return out
}

// last is the object of an event, also of the last one.
func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

func (c *controller) serviceSeen(obj any) {
	for _, addr := range addressesOf(last(obj)) {
		c.mirrors.Add(addr)
	}
}

// addressSeen also wakes the ServiceCIDRs whose deletion may wait for the address.
func (c *controller) addressSeen(obj any) {
	ip, ok := last(obj).(*networkingv1.IPAddress)
	if !ok {
		return
	}
	if addr, err := netip.ParseAddr(ip.Name); err == nil {
		c.mirrors.Add(addr)
	}
	c.wakeEnding()
}

// rangeSeen also wakes others: one that comes or goes changes what covers them.
func (c *controller) rangeSeen(obj any) {
	if cidr, ok := last(obj).(*networkingv1.ServiceCIDR); ok {
		c.ranges.Add(cidr.Name)
		c.wakeEnding()
	}
}
