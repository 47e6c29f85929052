package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics/legacyregistry"

	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/controllers"
	"portico.dev/portico/internal/controllers/addresses"
	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/certificates"
	"portico.dev/portico/internal/controllers/clusterroles"
	"portico.dev/portico/internal/controllers/endpoints"
	"portico.dev/portico/internal/controllers/garbage"
	"portico.dev/portico/internal/controllers/joining"
	"portico.dev/portico/internal/controllers/leader"
	"portico.dev/portico/internal/controllers/loadbalancers"
	"portico.dev/portico/internal/controllers/machines"
	"portico.dev/portico/internal/controllers/namesake"
	"portico.dev/portico/internal/controllers/namespaces"
	"portico.dev/portico/internal/controllers/nodes"
	"portico.dev/portico/internal/controllers/problems"
	"portico.dev/portico/internal/controllers/quota"
	"portico.dev/portico/internal/controllers/rootca"
	"portico.dev/portico/internal/controllers/scheduling"
	"portico.dev/portico/internal/controllers/serviceaccounts"
	"portico.dev/portico/internal/controllers/system"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/kubevirt"
)

// controllerRun is what controllers are made with.
type controllerRun struct {
	o         *options
	claims    addresses.Claims // those of the API server's store
	authority *certs.Authority // signs nodes' certificates
	balancers *loadbalancers.Metrics
	recorder  record.EventRecorder
	log       *slog.Logger

	kube kubernetes.Interface
	meta metadata.Interface
	dyn  dynamic.Interface
	vms  *kubevirt.Client
}

// runControllers runs every controller while this process holds their Lease. claims and
// authority are as in controllerRun, held is what the API server holds in memory.
func runControllers(ctx context.Context, config *rest.Config, claims addresses.Claims, held caches.Held, authority *certs.Authority, o *options, log *slog.Logger) error {
	r := &controllerRun{o: o, claims: claims, authority: authority, log: log}
	if err := r.connect(config); err != nil {
		return err
	}
	var stop func()
	r.recorder, stop = newRecorder(r.kube, "portico-controllers", kubevirt.Scheme())
	defer stop()
	// The API server serves the library's registry.
	registry := legacyregistry.Registerer()
	r.balancers = loadbalancers.NewMetrics()
	if err := registry.Register(r.balancers); err != nil {
		return fmt.Errorf("register the load balancers' metrics: %w", err)
	}
	defer registry.Unregister(r.balancers)
	lease := leader.Config{Leases: r.kube.CoordinationV1(), Identity: o.nodeName}
	return controllers.Run(ctx, controllers.Config{Lease: lease, Client: r.kube, Held: held, Log: log}, r.all)
}

// connect makes the clients.
func (r *controllerRun) connect(config *rest.Config) (err error) {
	if r.kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	if r.meta, err = metadata.NewForConfig(config); err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	if r.dyn, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	r.vms, err = kubevirt.NewForConfig(config, nil)
	return err
}

// all are the controllers.
func (r *controllerRun) all(shared *caches.Shared) []controllers.Controller {
	return slices.Concat(r.ofNamespaces(shared), r.ofServices(shared), r.ofMachines(shared), r.ofNodes(shared))
}

// ofServices are those of Services: their endpoints, addresses and the problems of both.
func (r *controllerRun) ofServices(shared *caches.Shared) []controllers.Controller {
	return []controllers.Controller{
		{Name: "endpoints", Run: func(ctx context.Context) error {
			return endpoints.Run(ctx, endpoints.Deps{Client: r.kube, Caches: shared, Recorder: r.recorder, Log: r.log})
		}},
		{Name: "problems", Run: func(ctx context.Context) error {
			return problems.Run(ctx, problems.Deps{Client: r.kube, Caches: shared, Recorder: r.recorder, Log: r.log})
		}},
		{Name: "addresses", Run: func(ctx context.Context) error {
			return addresses.Run(ctx, addresses.Deps{
				Client: r.kube, Caches: shared, Machines: r.vms, Claims: r.claims, Recorder: r.recorder, Log: r.log,
				Default: r.o.services, NodePortFirst: r.o.firstPort, NodePortLast: r.o.lastPort,
			})
		}},
		{Name: "loadbalancers", Run: func(ctx context.Context) error {
			return loadbalancers.Run(ctx, loadbalancers.Deps{
				Client: r.kube, Dynamic: r.dyn, Caches: shared, Recorder: r.recorder, Log: r.log, Metrics: r.balancers,
				Reserved: reservedRanges(r.o), Default: r.o.services,
			})
		}},
	}
}

// ofMachines are those of virtual machines, from template to node.
func (r *controllerRun) ofMachines(shared *caches.Shared) []controllers.Controller {
	return []controllers.Controller{
		{Name: "machines", Run: func(ctx context.Context) error {
			return machines.Run(ctx, machines.Deps{Client: r.kube, Caches: shared, Machines: r.vms, Recorder: r.recorder, Log: r.log})
		}},
		{Name: "scheduling", Run: func(ctx context.Context) error {
			return scheduling.Run(ctx, scheduling.Deps{Client: r.kube, Caches: shared, Recorder: r.recorder, Log: r.log})
		}},
	}
}

// ofNodes are those of nodes: how they join, and whether they live.
func (r *controllerRun) ofNodes(shared *caches.Shared) []controllers.Controller {
	return []controllers.Controller{
		{Name: "nodes", Run: func(ctx context.Context) error {
			return nodes.Run(ctx, nodes.Deps{Client: r.kube, Caches: shared, Recorder: r.recorder, Log: r.log, Ranges: r.o.cluster})
		}},
		{Name: "certificates", Run: func(ctx context.Context) error {
			return certificates.Run(ctx, certificates.Deps{
				Client: r.kube, Caches: shared, Signer: r.authority, Log: r.log, Reserved: servingNames(r.o),
				Domain: r.o.clusterDomain, Ranges: slices.Concat(r.o.services, r.o.cluster, r.o.guests),
			})
		}},
		{Name: "joining", Run: func(ctx context.Context) error {
			return joining.Run(ctx, joining.Deps{Client: r.kube, Log: r.log, Settings: bootstrap.Settings{
				ServiceCIDR: r.o.serviceCIDR, ClusterCIDR: r.o.clusterCIDR, GuestCIDR: r.o.guestCIDR, ClusterDomain: r.o.clusterDomain,
			}})
		}},
	}
}

// ofNamespaces are those of namespaces and all that is in each of them.
func (r *controllerRun) ofNamespaces(shared *caches.Shared) []controllers.Controller {
	return []controllers.Controller{
		{Name: "system", Run: func(ctx context.Context) error { return system.Run(ctx, r.kube, r.log) }},
		{Name: "garbage", Run: func(ctx context.Context) error {
			return garbage.Run(ctx, garbage.Deps{Metadata: r.meta, Discovery: r.kube.Discovery(), Log: r.log})
		}},
		{Name: "serviceaccounts", Run: func(ctx context.Context) error {
			return serviceaccounts.Run(ctx, namesake.Deps{Client: r.kube, Caches: shared, Log: r.log})
		}},
		{Name: "quota", Run: func(ctx context.Context) error {
			return quota.Run(ctx, quota.Deps{Client: r.kube, Caches: shared, Metadata: r.meta, Discovery: r.kube.Discovery(), Log: r.log})
		}},
		{Name: "rootca", Run: func(ctx context.Context) error {
			return rootca.Run(ctx, namesake.Deps{Client: r.kube, Caches: shared, Log: r.log}, r.authority.PEM())
		}},
		{Name: "clusterroles", Run: func(ctx context.Context) error {
			return clusterroles.Run(ctx, clusterroles.Deps{Client: r.kube, Caches: shared, Log: r.log})
		}},
		{Name: "namespaces", Run: func(ctx context.Context) error {
			return namespaces.Run(ctx, namespaces.Deps{Client: r.kube, Caches: shared, Metadata: r.meta, Discovery: r.kube.Discovery(), Log: r.log})
		}},
	}
}

const (
	podAddresses   = "the addresses of pods (--cluster-cidr)"
	guestAddresses = "the addresses of virtual machines (--guest-cidr)"
)

// reservedRanges are the cluster's own, which no load balancer gets addresses of; beside
// them there are ServiceCIDRs and nodes.
func reservedRanges(o *options) []pools.Reserved {
	var out []pools.Reserved
	add := func(prefixes []netip.Prefix, what string) {
		for _, prefix := range prefixes {
			out = append(out, pools.Reserved{Prefix: prefix, What: what})
		}
	}
	add(o.cluster, podAddresses)
	add(o.guests, guestAddresses)
	return out
}

// newRecorder writes Events in the name of component, about what scheme knows; stop ends it.
func newRecorder(kube kubernetes.Interface, component string, scheme *runtime.Scheme) (_ record.EventRecorder, stop func()) {
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	return broadcaster.NewRecorder(scheme, corev1.EventSource{Component: component}), broadcaster.Shutdown
}
