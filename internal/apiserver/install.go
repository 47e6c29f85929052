package apiserver

import (
	"fmt"
	"net/netip"

	"go.etcd.io/etcd/client/v3/kubernetes"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/admissionchain"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/ownership"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/core/service"
)

// registryConfig is what the registries need beside the store.
type registryConfig struct {
	cluster service.Cluster
	pools   *ipam.Pools
	guests  *ipam.GuestRange
	// guestRanges are the prefixes of guests.
	guestRanges []netip.Prefix
	mirror      *claims.Mirror
	claims      *kubernetes.Client // reads them, for dry runs
	doors       Doors
	// security is asked by what gives rights away.
	security *security
	// resolver finds webhooks in the registries.
	resolver *admissionchain.Resolver
	// owners reads owners from the registries.
	owners *ownership.Plugin
	// gets answers reads of the registries.
	gets *plainGets
}

// storages collects the REST storage of each group.
type storages map[schema.GroupVersion]map[string]rest.Storage

func (s storages) put(gv schema.GroupVersion, resource string, storage rest.Storage) {
	if s[gv] == nil {
		s[gv] = map[string]rest.Storage{}
	}
	s[gv][resource] = storage
}

// add builds a kind's storage, with its status, and collects it.
func add[T runtime.Object](s storages, scheme *runtime.Scheme, options generic.RESTOptionsGetter, k kind[T]) (*restStorage, *statusStorage, error) {
	main, status, err := newStorage(scheme, options, k)
	if err != nil {
		return nil, nil, err
	}
	s.put(k.gv, k.plural, main)
	if status != nil {
		s.put(k.gv, k.plural+"/status", status)
	}
	return main, status, nil
}

// install serves every built-in resource.
func install(server *genericapiserver.GenericAPIServer, config *genericapiserver.RecommendedConfig, scheme *runtime.Scheme, codecs serializer.CodecFactory, options generic.RESTOptionsGetter, rc registryConfig) error {
	s := storages{}
	if err := addCore(s, scheme, options, rc); err != nil {
		return err
	}
	if err := addSecurity(s, scheme, options, rc.security); err != nil {
		return err
	}
	if err := addMachines(s, scheme, options, rc); err != nil {
		return err
	}
	for _, build := range []func() error{
		func() error { _, _, err := add(s, scheme, options, endpointSliceKind()); return err },
		func() error { _, _, err := add(s, scheme, options, leaseKind()); return err },
		func() error { _, _, err := add(s, scheme, options, ipAddressKind()); return err },
		func() error { _, _, err := add(s, scheme, options, serviceCIDRKind(rc.guestRanges)); return err },
		func() error { return addNetworking(s, scheme, options) },
		func() error { return addCluster(s, scheme, options) },
		func() error { return addAdmission(s, scheme, options) },
		func() error { _, _, err := add(s, scheme, options, quotaKind()); return err },
		func() error { return addProxies(s) },
	} {
		if err := build(); err != nil {
			return err
		}
	}
	core := groupInfo(scheme, codecs, corev1.SchemeGroupVersion, s)
	if err := server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, core); err != nil {
		return fmt.Errorf("serve the core group: %w", err)
	}
	if err := resolveWith(rc.resolver, s); err != nil {
		return err
	}
	if err := readOwners(rc.owners, s); err != nil {
		return err
	}
	// Installed together they share the models that server-side apply works with.
	var groups []*genericapiserver.APIGroupInfo
	for _, gv := range []schema.GroupVersion{
		discoveryv1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion,
		eventsv1.SchemeGroupVersion, rbacv1.SchemeGroupVersion,
		authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion,
		admissionv1.SchemeGroupVersion, appsv1.SchemeGroupVersion, autoscalingv2.SchemeGroupVersion, batchv1.SchemeGroupVersion, certificatesv1.SchemeGroupVersion,
		nodev1.SchemeGroupVersion, policyv1.SchemeGroupVersion, resourcev1.SchemeGroupVersion, schedulingv1.SchemeGroupVersion,
		storagev1.SchemeGroupVersion,
	} {
		groups = append(groups, groupInfo(scheme, codecs, gv, s))
	}
	if err := server.InstallAPIGroups(groups...); err != nil {
		return fmt.Errorf("serve the other groups: %w", err)
	}
	for _, info := range append(groups, core) {
		rc.gets.take(info.PrioritizedVersions[0], s, info.NegotiatedSerializer)
	}
	// The server keeps each info for its end, and with it the models that nobody reads again.
	for _, info := range append(groups, core) {
		info.StaticOpenAPISpec = nil
	}
	for _, gv := range []schema.GroupVersion{kubevirtv1.GroupVersion, subresourcesGroupVersion} {
		if err := installMachineGroup(server, config, scheme, codecs, gv, s[gv]); err != nil {
			return err
		}
	}
	return nil
}

func groupInfo(scheme *runtime.Scheme, codecs serializer.CodecFactory, gv schema.GroupVersion, s storages) *genericapiserver.APIGroupInfo {
	info := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
	info.NegotiatedSerializer = newCheckedSerializers(codecs)
	info.PrioritizedVersions = []schema.GroupVersion{gv}
	info.VersionedResourcesStorageMap[gv.Version] = s[gv]
	return &info
}

func addCore(s storages, scheme *runtime.Scheme, options generic.RESTOptionsGetter, rc registryConfig) error {
	core := corev1.SchemeGroupVersion
	namespaces, status, err := add(s, scheme, options, namespaceKind())
	if err != nil {
		return err
	}
	s.put(core, "namespaces", newNamespaceStorage(namespaces, status))
	s.put(core, "namespaces/finalize", newFinalizeStorage(namespaces))

	endpoints, _, err := add(s, scheme, options, endpointsKind())
	if err != nil {
		return err
	}
	services, _, err := add(s, scheme, options, serviceKind(rc.cluster, rc.pools))
	if err != nil {
		return err
	}
	services.AfterDelete = deleteEndpoints(endpoints.Store)
	s.put(core, "services", &serviceStorage{services, rc.pools, rc.claims})

	pods, _, err := add(s, scheme, options, podKind())
	if err != nil {
		return err
	}
	pods.ReturnDeletedObject = true
	s.put(core, "pods/binding", &bindingStorage{pods.Store})

	events, _, err := add(s, scheme, options, eventKind())
	if err != nil {
		return err
	}
	s.put(eventsv1.SchemeGroupVersion, "events", events)

	for _, build := range []func() error{
		func() error { _, _, err := add(s, scheme, options, nodeKind()); return err },
		func() error { _, _, err := add(s, scheme, options, configMapKind()); return err },
		func() error { _, _, err := add(s, scheme, options, secretKind()); return err },
		func() error { _, _, err := add(s, scheme, options, serviceAccountKind()); return err },
	} {
		if err := build(); err != nil {
			return err
		}
	}
	return nil
}

func addMachines(s storages, scheme *runtime.Scheme, options generic.RESTOptionsGetter, rc registryConfig) error {
	vms, status, err := add(s, scheme, options, machineKind())
	if err != nil {
		return err
	}
	instances, _, err := add(s, scheme, options, instanceKind())
	if err != nil {
		return err
	}
	rc.security.objects["VirtualMachineInstance"] = instances // nodes' rights ask whose one is
	m := machines{vms: vms.Store, instances: instances.Store, status: status.store}
	sub := subresourcesGroupVersion
	s.put(sub, "virtualmachines", parentStorage{&kubevirtv1.VirtualMachine{}, kubevirtv1.VirtualMachineGroupVersionKind, "virtualmachine"})
	s.put(sub, "virtualmachineinstances", parentStorage{&kubevirtv1.VirtualMachineInstance{}, kubevirtv1.VirtualMachineInstanceGroupVersionKind, "virtualmachineinstance"})
	s.put(sub, "virtualmachines/start", &verbStorage{m, decideWith(machine.StartMachine)})
	s.put(sub, "virtualmachines/stop", &verbStorage{m, decideWith(machine.StopMachine)})
	s.put(sub, "virtualmachines/restart", &verbStorage{m, decideWith(machine.RestartMachine)})
	s.put(sub, "virtualmachineinstances/console", &consoleStorage{m, rc.doors})
	return nil
}
