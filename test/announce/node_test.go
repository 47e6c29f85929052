package announce

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/nftables"
)

// asNode is where a process of this test finds what it is to be.
const asNode = "PORTICO_TEST_NODE"

// settings are those of one node's process.
type settings struct {
	Self    string
	Nodes   []announcing.Node
	Backend []netip.Addr // the own guest
	Store   string
	Key     string // of greetings
	VIPs    []netip.Addr
	// Late is how long the other Nodes have no address: their agents have just made them.
	Late time.Duration
}

func TestMain(m *testing.M) {
	text := os.Getenv(asNode)
	if text == "" {
		os.Exit(m.Run())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := runNode(text, log); err != nil {
		log.Error(err.Error())
		os.Exit(1)
	}
}

// runNode is a node's agent as far as addresses go: the data plane and the announcer.
func runNode(text string, log *slog.Logger) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	log = log.With("node", s.Self)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	in := s.input()
	var own []netip.Addr
	for _, n := range s.Nodes {
		if n.Name == s.Self {
			own = n.Addresses
		}
	}
	backend, err := nftables.New(nftables.Config{WorkloadRanges: workloads, Logger: log})
	if err != nil {
		return err
	}
	plane := dataplane.New(backend, dataplane.Options{Logger: log, NodeAddresses: own, ServiceRanges: services})
	planeCtx, stopPlane := context.WithCancel(context.Background())
	var group sync.WaitGroup
	defer group.Wait()
	defer stopPlane() // after the announcer: what it still answers for must be served
	group.Go(func() {
		defer backend.Close() //nolint:errcheck // only sockets are closed
		if err := plane.Run(planeCtx); err != nil {
			log.Error("The data plane ended", "error", err)
		}
	})
	var views []catalog.View
	for i := range in.Services {
		views = append(views, in.Services[i].View)
	}
	plane.Replace(&catalog.Node{Name: s.Self}, views)
	if err := plane.Wait(ctx); err != nil {
		return fmt.Errorf("the data plane: %w", err)
	}
	mesh, err := greet.Open(s.Self, log)
	if err != nil {
		return err
	}
	a := l2.New(l2.Config{Self: s.Self, Mesh: mesh, Skip: []string{"portico", "tap"}, Store: l2.NewStore(s.Store), Log: log})
	a.SetKeys([][]byte{[]byte(s.Key)})
	if s.Late > 0 {
		young := in
		young.Nodes = slices.Clone(in.Nodes)
		for i := range young.Nodes {
			if young.Nodes[i].Name != s.Self {
				young.Nodes[i].Addresses = nil
			}
		}
		a.Set(young)
		defer time.AfterFunc(s.Late, func() { a.Set(in) }).Stop()
	} else {
		a.Set(in)
	}
	leave := make(chan os.Signal, 1)
	signal.Notify(leave, syscall.SIGUSR1)
	group.Go(func() {
		select {
		case <-planeCtx.Done():
			return
		case <-leave:
		}
		log.Info("This node has left", "error", a.Leave(ctx))
	})
	return a.Run(ctx)
}

func (s *settings) backend(v6 bool) netip.Addr {
	return s.Backend[slices.IndexFunc(s.Backend, func(a netip.Addr) bool { return a.Is6() == v6 })]
}

// input is what the API would give: a Service for each pair of addresses.
func (s *settings) input() announcing.Input {
	pool := &metallb.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}
	in := announcing.Input{Self: s.Self, Nodes: s.Nodes, Config: &metallb.Config{
		Pools:            []*metallb.IPAddressPool{pool},
		L2Advertisements: []*metallb.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}},
	}}
	for i, vip := range s.VIPs {
		name := types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("web-%d", i)}
		svc := &catalog.Service{
			Name: name, UID: types.UID(name.Name), Type: corev1.ServiceTypeLoadBalancer, HasSelector: true,
			Ports:      []catalog.ServicePort{{Name: "u", Protocol: catalog.UDP, Port: port}},
			ClusterIPs: []netip.Addr{clusterIP(i, vip.Is6())}, Ingress: []catalog.Ingress{{IP: vip}},
		}
		view := catalog.View{Name: name, Service: svc, Slices: []*catalog.Slice{{
			Name: name, Service: name, IPv6: vip.Is6(),
			Ports:     []catalog.SlicePort{{Name: "u", Protocol: catalog.UDP, Port: port}},
			Endpoints: []catalog.Endpoint{{Addr: s.backend(vip.Is6()), Node: s.Self, Ready: true, Serving: true}},
		}}}
		in.Services = append(in.Services, announcing.Service{View: view, Addresses: []announcing.Address{{Addr: vip, Pool: pool}}})
	}
	return in
}

func clusterIP(i int, v6 bool) netip.Addr {
	base := services[0].Addr().As4()
	if v6 {
		base := services[1].Addr().As16()
		base[14], base[15] = byte(i>>8), byte(i)+1
		return netip.AddrFrom16(base)
	}
	base[2], base[3] = byte(i>>8), byte(i)+1
	return netip.AddrFrom4(base)
}
