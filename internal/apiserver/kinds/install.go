package kinds

import (
	"net/netip"

	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"

	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/service"
)

// Config is what kinds need beside the store.
type Config struct {
	Cluster     service.Cluster
	Pools       *ipam.Pools
	Claims      *kubernetes.Client // reads them, for dry runs
	GuestRanges []netip.Prefix
}

// Add serves all kinds but those of rights and of virtual machines, which need more
// than the store.
func Add(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter, c Config) error {
	for _, build := range []func() error{
		func() error { return addCore(s, scheme, options, c) },
		func() error { _, _, err := registry.Add(s, scheme, options, endpointSliceKind()); return err },
		func() error { _, _, err := registry.Add(s, scheme, options, leaseKind()); return err },
		func() error { _, _, err := registry.Add(s, scheme, options, ipAddressKind()); return err },
		func() error {
			_, _, err := registry.Add(s, scheme, options, serviceCIDRKind(c.GuestRanges))
			return err
		},
		func() error { return addNetworking(s, scheme, options) },
		func() error { return addCluster(s, scheme, options) },
		func() error { return addAdmission(s, scheme, options) },
		func() error { _, _, err := registry.Add(s, scheme, options, quotaKind()); return err },
	} {
		if err := build(); err != nil {
			return err
		}
	}
	return nil
}

func addCore(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter, c Config) error {
	core := corev1.SchemeGroupVersion
	namespaces, status, err := registry.Add(s, scheme, options, namespaceKind())
	if err != nil {
		return err
	}
	s.Put(core, "namespaces", newNamespaceStorage(namespaces, status))
	s.Put(core, "namespaces/finalize", newFinalizeStorage(namespaces))

	endpoints, _, err := registry.Add(s, scheme, options, endpointsKind())
	if err != nil {
		return err
	}
	services, _, err := registry.Add(s, scheme, options, serviceKind(c.Cluster, c.Pools))
	if err != nil {
		return err
	}
	services.AfterDelete = deleteEndpoints(endpoints.Store)
	s.Put(core, "services", &ServiceStorage{services, c.Pools, c.Claims})

	pods, _, err := registry.Add(s, scheme, options, podKind())
	if err != nil {
		return err
	}
	pods.ReturnDeletedObject = true
	s.Put(core, "pods/binding", &bindingStorage{pods.Store})

	events, _, err := registry.Add(s, scheme, options, eventKind())
	if err != nil {
		return err
	}
	s.Put(eventsv1.SchemeGroupVersion, "events", events)

	for _, build := range []func() error{
		func() error { _, _, err := registry.Add(s, scheme, options, nodeKind()); return err },
		func() error { _, _, err := registry.Add(s, scheme, options, configMapKind()); return err },
		func() error { _, _, err := registry.Add(s, scheme, options, secretKind()); return err },
		func() error { _, _, err := registry.Add(s, scheme, options, serviceAccountKind()); return err },
	} {
		if err := build(); err != nil {
			return err
		}
	}
	return nil
}
