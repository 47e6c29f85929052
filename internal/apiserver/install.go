package apiserver

import (
	"fmt"

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
	genericapiserver "k8s.io/apiserver/pkg/server"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/admissionchain"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/apiserver/ownership"
	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/machine"
)

// registryConfig is what the registries need beside the store.
type registryConfig struct {
	kinds.Config
	guests *ipam.GuestRange
	mirror *claims.Mirror
	doors  Doors
	// security is asked by what gives rights away.
	security *security
	// resolver finds webhooks in the registries.
	resolver *admissionchain.Resolver
	// owners reads owners from the registries.
	owners *ownership.Plugin
	// gets answers reads of the registries.
	gets *plainGets
}

// install serves every built-in resource.
func install(server *genericapiserver.GenericAPIServer, config *genericapiserver.RecommendedConfig, scheme *runtime.Scheme, codecs serializer.CodecFactory, options generic.RESTOptionsGetter, rc registryConfig) error {
	s, err := newStorages(scheme, options, rc)
	if err != nil {
		return err
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
	for _, gv := range []schema.GroupVersion{kubevirtv1.GroupVersion, kinds.SubresourcesGroupVersion} {
		if err := installMachineGroup(server, config, scheme, codecs, gv, s[gv]); err != nil {
			return err
		}
	}
	return nil
}

// newStorages builds the storage of every built-in resource.
func newStorages(scheme *runtime.Scheme, options generic.RESTOptionsGetter, rc registryConfig) (registry.Set, error) {
	s := registry.Set{}
	for _, build := range []func() error{
		func() error { return kinds.Add(s, scheme, options, rc.Config) },
		func() error { return addSecurity(s, scheme, options, rc.security) },
		func() error { return addMachines(s, scheme, options, rc) },
		func() error { return addProxies(s) },
	} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func groupInfo(scheme *runtime.Scheme, codecs serializer.CodecFactory, gv schema.GroupVersion, s registry.Set) *genericapiserver.APIGroupInfo {
	info := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
	info.NegotiatedSerializer = newCheckedSerializers(codecs)
	info.PrioritizedVersions = []schema.GroupVersion{gv}
	info.VersionedResourcesStorageMap[gv.Version] = s[gv]
	return &info
}

func addMachines(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter, rc registryConfig) error {
	vms, status, err := registry.Add(s, scheme, options, kinds.MachineKind())
	if err != nil {
		return err
	}
	instances, _, err := registry.Add(s, scheme, options, kinds.InstanceKind())
	if err != nil {
		return err
	}
	rc.security.objects["VirtualMachineInstance"] = instances // nodes' rights ask whose one is
	m := machines{vms: vms.Store, instances: instances.Store, status: status.Store}
	sub := kinds.SubresourcesGroupVersion
	s.Put(sub, "virtualmachines", parentStorage{&kubevirtv1.VirtualMachine{}, kubevirtv1.VirtualMachineGroupVersionKind, "virtualmachine"})
	s.Put(sub, "virtualmachineinstances", parentStorage{&kubevirtv1.VirtualMachineInstance{}, kubevirtv1.VirtualMachineInstanceGroupVersionKind, "virtualmachineinstance"})
	s.Put(sub, "virtualmachines/start", &verbStorage{m, decideWith(machine.StartMachine)})
	s.Put(sub, "virtualmachines/stop", &verbStorage{m, decideWith(machine.StopMachine)})
	s.Put(sub, "virtualmachines/restart", &verbStorage{m, decideWith(machine.RestartMachine)})
	s.Put(sub, "virtualmachineinstances/console", &consoleStorage{m, rc.doors})
	return nil
}
