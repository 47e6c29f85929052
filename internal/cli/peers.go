package cli

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/peers"
	"portico.dev/portico/internal/vm/link"
)

const (
	// vxlanPort is the one that RFC 7348 section 5 has for VXLAN.
	vxlanPort = 4789
	// noNodeRoutes leaves the routes between nodes to somebody else, a CNI plugin say.
	noNodeRoutes = "none"
	// firstPlan bounds how long guests wait until the ways to the other nodes are known.
	// They are known some milliseconds after the API answers.
	firstPlan = 3 * time.Second
)

// nodeRoutes are the settings of the routes between nodes.
type nodeRoutes struct {
	mode string
	port uint16
}

func (r *nodeRoutes) flags(f *pflag.FlagSet) {
	f.StringVar(&r.mode, "node-routes", string(mesh.Auto), "how packets get to other nodes' pods and guests: auto, vxlan or none")
	f.Uint16Var(&r.port, "vxlan-port", vxlanPort, "UDP `port` of VXLAN between nodes, the same on all")
}

// guestMTU is the MTU of the guests' links: the smallest that the host's uplinks and the
// ways to other nodes take.
type guestMTU struct {
	log   *slog.Logger
	known chan struct{} // closed once the ways to the other nodes are known

	mu    sync.Mutex // guards the following
	ways  int        // 0: no other node, or not known yet
	links *link.Manager
}

// now gives the MTU as far as it is known.
func (m *guestMTU) now() (int, error) {
	mtu, err := routes.UplinkMTU()
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ways > 0 {
		mtu = min(mtu, max(m.ways, 1280)) // RFC 8200 section 5
	}
	return mtu, nil
}

// await gives the ways to other nodes a moment to become known.
func (m *guestMTU) await(ctx context.Context) {
	timer := time.NewTimer(firstPlan)
	defer timer.Stop()
	select {
	case <-m.known:
	case <-timer.C:
		m.log.Warn("The ways to other nodes aren't known yet; guests start with the uplink's MTU")
	case <-ctx.Done():
	}
}

// follow has the links follow from now on.
func (m *guestMTU) follow(links *link.Manager) {
	m.mu.Lock()
	m.links = links
	m.mu.Unlock()
	m.tell()
}

// planned takes a new plan.
func (m *guestMTU) planned(plan mesh.Plan) {
	m.mu.Lock()
	m.ways = plan.MTU
	m.mu.Unlock()
	select {
	case <-m.known:
	default:
		close(m.known)
	}
	m.tell()
}

func (m *guestMTU) tell() {
	mtu, err := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && m.links != nil {
		err = m.links.SetMTU(mtu)
	}
	if err != nil {
		m.log.Warn("The guests' links keep their MTU", "error", err)
	}
}

// startPeers keeps the routes to the other nodes.
func (n *nodeRun) startPeers() error {
	n.mtu = &guestMTU{log: n.log, known: make(chan struct{})}
	if n.o.nodeRoutes.mode == noNodeRoutes {
		close(n.mtu.known)
		return nil
	}
	keeper, err := peers.New(peers.Config{
		Name: n.o.nodeName, PodCIDRs: n.podCIDRs, Cluster: n.o.cluster, Guests: n.o.guests,
		Mode: mesh.Mode(n.o.nodeRoutes.mode), Port: n.o.nodeRoutes.port, Log: n.log,
		Planned: n.mtu.planned, Guarded: n.hush.add,
	}, n.addresses.All())
	if err != nil {
		return err
	}
	n.peers = keeper
	n.start("routes between nodes", keeper.Run)
	n.start("watch of other nodes", func(ctx context.Context) error {
		return agent.FollowPeers(ctx, n.kube, n.o.nodeName, n.log, keeper.Set)
	})
	return nil
}
