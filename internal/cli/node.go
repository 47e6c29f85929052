package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/announce"
	"portico.dev/portico/internal/announce/bgp"
	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/healthcheck"
	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/internal/dataplane/userspace"
	"portico.dev/portico/internal/dns"
	"portico.dev/portico/internal/node"
	"portico.dev/portico/internal/node/register"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/peers"
	"portico.dev/portico/internal/vm/accel"
)

// dnsPort is where the DNS server listens, on the node's own addresses only.
const dnsPort = 53

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("the agent programs the kernel's network and needs root; run it with sudo, or `portico up --no-agent` for the API alone, or with --dataplane userspace for node ports without privilege")
	}
	return nil
}

// checkHost finds what would stop the node side, before anything is changed.
func checkHost(o *options, log *slog.Logger) error {
	if limited, err := o.checkPrivilege(log); limited || err != nil {
		return err
	}
	warnings, err := routes.Check(o.routesConfig())
	if err != nil {
		return err
	}
	for _, w := range warnings {
		log.Warn(w)
	}
	if _, err := routes.PrimaryAddresses(o.nodeIPs); err != nil {
		return err
	}
	if _, err := o.technique(); err != nil {
		return err
	}
	if o.vm == "off" {
		return nil
	}
	for _, program := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed; run `apt-get install --no-install-recommends qemu-system-x86 qemu-utils`, or start with --vm off", program)
		}
	}
	_, err = accel.Detect(accel.Mode(o.vm))
	return err
}

// nodeRun is one run of the node side.
type nodeRun struct {
	o      *options
	config *rest.Config
	keys   *doorKeys // nil: no door, and so no consoles
	log    *slog.Logger
	alone  bool // the process is nothing else
	// stranger: the API may be somebody else's, who knows nothing of our load balancers.
	stranger bool
	// onNetwork is called once the node has its own addresses of the pod range.
	onNetwork func(ctx context.Context, own []netip.Addr) error

	kube      kubernetes.Interface
	watches   *agent.Watches
	addresses routes.Addresses
	nodePorts []netip.Addr // where node ports answer at first
	podCIDRs  []netip.Prefix
	network   *routes.Network
	peers     *peers.Keeper // nil with --node-routes none
	mtu       *guestMTU
	hush      hush
	technique *technique          // nil with --dataplane none
	plane     *dataplane.Plane    // nil likewise
	checks    *healthcheck.Server // nil likewise
	userspace *userspace.Backend  // nil with other techniques
	ahead     *nftables.Ahead     // nil with other techniques, and once it was handed on
	room      *strings.Builder    // see makeRoom
	names     *dns.Server
	layer2    *l2.Announcer       // nil with --announce none
	bgp       *bgp.Speaker        // nil likewise
	faults    *announce.Faults    // nil likewise
	collector *announce.Collector // nil likewise
	balancer  *balancer           // nil: the API's own controllers give addresses
	node      *node.Node
	door      *doorway // nil: none

	group  sync.WaitGroup
	cancel context.CancelCauseFunc
	ctx    context.Context
}

// start runs a part until the node ends; a part that fails ends the node.
func (n *nodeRun) start(name string, f func(context.Context) error) {
	n.group.Go(func() {
		if err := f(n.ctx); err != nil && n.ctx.Err() == nil {
			n.cancel(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// run works until ctx ends; guests and rules stay.
func (n *nodeRun) run(ctx context.Context) (err error) {
	n.makeRoom()
	n.ctx, n.cancel = context.WithCancelCause(ctx)
	defer n.group.Wait()
	defer n.cancel(nil)
	defer func() { n.ahead.Close() }() //nolint:errcheck // it was only read from
	if err := n.prepare(); err != nil {
		return err
	}
	n.watches = agent.Watch(n.ctx, n.kube, n.o.nodeName, n.log) // a start waits for these lists most of all
	n.group.Go(n.watches.Wait)
	if err := n.startLoadBalancing(); err != nil {
		return err
	}
	reg, err := n.register()
	if err != nil {
		return err
	}
	closeNetwork, err := n.openNetwork()
	if err != nil {
		return err
	}
	defer closeNetwork()
	if err := n.startServices(); err != nil {
		return err
	}
	if err := n.startMetrics(); err != nil {
		return err
	}
	n.start("memory", n.keepSmall)
	stop, err := n.startGuests()
	if err != nil {
		return err
	}
	defer stop()
	n.startRegistration(reg)
	n.log.Info("The node is ready", "name", n.o.nodeName, "addresses", n.addresses.All(), "pods", n.podCIDRs, "dataplane", n.dataplaneName())
	<-n.ctx.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(n.ctx)
}

// prepare finds out what the rest works with, and changes nothing.
func (n *nodeRun) prepare() (err error) {
	if n.kube, err = kubernetes.NewForConfig(inProtobuf(n.config)); err != nil {
		return fmt.Errorf("make the agent's client: %w", err)
	}
	if n.technique, err = n.o.technique(); err != nil {
		return err
	}
	if err := n.readAhead(); err != nil {
		return err
	}
	if n.addresses, err = routes.PrimaryAddresses(n.o.nodeIPs); err != nil {
		return err
	}
	n.nodePorts, err = routes.NodePortAddresses(n.o.nodePortRanges, n.addresses)
	return err
}

// startLoadBalancing starts what announces addresses of load balancers, and what gives them.
func (n *nodeRun) startLoadBalancing() error {
	if n.o.lacks == nil {
		if err := n.startAnnounce(); err != nil {
			return err
		}
	}
	return n.startBalancer()
}

func (n *nodeRun) dataplaneName() string {
	if n.technique == nil {
		return dataplaneNone
	}
	return n.technique.name
}

// register makes the Node object, or finds it, and learns the node's pod ranges.
func (n *nodeRun) register() (*register.Registration, error) {
	memory, err := hostMemory()
	if err != nil {
		return nil, err
	}
	info := register.Node{Name: n.o.nodeName, Addresses: n.addresses.All(), Memory: memory, Version: version()}
	if n.o.vm != "off" {
		info.Guests = register.MaxGuests
		if n.keys != nil {
			info.DoorPort = doorPort
		}
	}
	if n.o.lacks != nil {
		info.Limits = n.limits
	}
	reg := register.New(n.kube, info, n.log)
	if n.podCIDRs, err = reg.Register(n.ctx); err != nil {
		return nil, err
	}
	return reg, nil
}

// openNetwork gives the node its bridge, addresses and routes, and leads to the other
// nodes, where this process may. The kernel keeps all that after closeNetwork.
func (n *nodeRun) openNetwork() (closeNetwork func(), err error) {
	if n.o.lacks != nil {
		return func() {}, n.networkOpen()
	}
	config := n.o.routesConfig()
	config.PodCIDRs, config.Log = n.podCIDRs, n.log
	if n.network, err = routes.Setup(n.ctx, config); err != nil {
		return nil, err
	}
	closeNetwork = func() { n.network.Close() } //nolint:errcheck // it only ends goroutines
	if err = n.hush.add(n.network.Keeper()); err == nil {
		err = n.networkOpen()
	}
	if err == nil {
		err = n.startPeers()
	}
	if err != nil {
		closeNetwork()
		return nil, err
	}
	return closeNetwork, nil
}

func (n *nodeRun) networkOpen() error {
	if n.onNetwork == nil {
		return nil
	}
	return n.onNetwork(n.ctx, n.own())
}

// own are the node's own addresses of the pod range, .1 and ::1.
func (n *nodeRun) own() []netip.Addr {
	var out []netip.Addr
	if n.network == nil {
		return nil
	}
	for _, ipv6 := range []bool{false, true} {
		if a := n.network.Own(ipv6); a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// startServices starts what turns Services into packets and names.
func (n *nodeRun) startServices() (err error) {
	var consumers []agent.Consumer
	if n.technique != nil {
		backend, err := n.technique.open(n)
		if err != nil {
			return err
		}
		n.plane = dataplane.New(backend, dataplane.Options{Logger: n.log, NodeAddresses: n.nodePorts, ServiceRanges: n.o.services})
		consumers = append(consumers, n.plane)
		n.start("data plane", func(ctx context.Context) error {
			defer backend.Close() //nolint:errcheck // rules stay; only sockets are closed
			return n.plane.Run(ctx)
		})
		if n.o.lacks == nil {
			n.start("earlier data planes", n.removeOthers)
		}
		n.checks = healthcheck.New(healthcheck.Options{Addresses: n.nodePorts, Healthy: n.plane.Healthy, Logger: n.log})
		consumers = append(consumers, n.checks)
		n.start("health check node ports", n.checks.Run)
	}
	if n.o.lacks == nil { // or there is no address of its own where DNS would answer
		if err := n.startNames(); err != nil {
			return err
		}
		consumers = append(consumers, n.names)
	}
	if n.collector != nil {
		consumers = append(consumers, n.collector)
	}
	n.start("watches", func(ctx context.Context) error {
		n.watches.Feed(ctx, agent.Ranges{Default: n.o.services, To: n.setServiceRanges}, consumers...)
		return nil
	})
	return nil
}

// workloads are the ranges of pods and guests.
func (n *nodeRun) workloads() []netip.Prefix {
	return append(append([]netip.Prefix{}, n.o.cluster...), n.o.guests...)
}

// setServiceRanges has all that knows the ranges of cluster IPs follow. What the host
// itself uses stays the host's, for the rules too: they would drop its packets.
func (n *nodeRun) setServiceRanges(ranges []netip.Prefix) {
	if n.network != nil {
		ranges = n.network.SetServices(ranges)
	}
	if n.plane != nil {
		n.plane.SetServiceRanges(ranges)
	}
	if n.names != nil {
		n.names.SetServiceRanges(ranges)
	}
}

func prefixes(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		out[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return out
}

// startRegistration keeps the Node object, and follows the host's addresses.
func (n *nodeRun) startRegistration(reg *register.Registration) {
	changes := make(chan []netip.Addr)
	n.start("node registration", func(ctx context.Context) error { return reg.Run(ctx, changes, n.healthy) })
	n.start("host addresses", func(ctx context.Context) error {
		return routes.WatchAddresses(ctx, n.o.nodeIPs, n.o.nodePortRanges, n.log, n.setNodePorts, func(a routes.Addresses) {
			if n.peers != nil {
				n.peers.SetAddresses(a.All())
			}
			if n.door != nil {
				if err := n.door.follow(a.All()); err != nil {
					n.log.Warn("The node's door isn't open at each of the node's addresses", "error", err)
				}
			}
			select {
			case changes <- a.All():
			case <-ctx.Done():
			}
		})
	})
}

// setNodePorts has node ports answer at other addresses.
func (n *nodeRun) setNodePorts(at []netip.Addr) {
	if n.plane != nil {
		n.plane.SetNodeAddresses(at)
		n.checks.SetAddresses(at)
	}
}

// healthy says why this node should take no guests.
func (n *nodeRun) healthy() error {
	if n.plane != nil {
		if err := n.plane.Healthy(); err != nil {
			return err
		}
	}
	return n.node.Healthy()
}
