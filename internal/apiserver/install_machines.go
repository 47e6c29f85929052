package apiserver

import (
	"fmt"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	openapiutil "k8s.io/kube-openapi/pkg/util"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// installMachineGroup serves a group of KubeVirt's. It does what the library's
// InstallAPIGroup does, but for one thing: the owners of fields are worked out on
// unstructured values. KubeVirt's types have fields of type uint64
// (status.runtimeUser), at which the library's reflection panics.
func installMachineGroup(server *genericapiserver.GenericAPIServer, config *genericapiserver.RecommendedConfig,
	scheme *runtime.Scheme, codecs serializer.CodecFactory, gv schema.GroupVersion, resources map[string]rest.Storage,
) error {
	converter, err := machineConverter(config.OpenAPIV3Config, scheme, gv, resources)
	if err != nil {
		return err
	}
	served := map[string][]string{}
	for resource := range resources {
		served[resource] = []string{gv.String()}
	}
	group := &genericapi.APIGroupVersion{
		Storage: resources, Root: genericapiserver.APIGroupPrefix, GroupVersion: gv, AllServedVersionsByResource: served,
		OptionsExternalVersion: &schema.GroupVersion{Version: "v1"},
		Serializer:             newMachineSerializers(codecs), ParameterCodec: metav1.ParameterCodec,
		Typer: scheme, Creater: scheme, Convertor: scheme, ConvertabilityChecker: scheme, Defaulter: scheme,
		Namer: runtime.Namer(meta.NewAccessor()), UnsafeConvertor: runtime.UnsafeObjectConvertor(scheme),
		TypeConverter: converter, EquivalentResourceRegistry: server.EquivalentResourceRegistry,
		Authorizer: server.Authorizer, Admit: config.AdmissionControl,
		MinRequestTimeout: minRequestTimeout, MaxRequestBodyBytes: maxBodyBytes,
	}
	discovered, _, err := group.InstallREST(server.Handler.GoRestfulContainer)
	if err != nil {
		return fmt.Errorf("serve %s: %w", gv, err)
	}
	server.AggregatedDiscoveryGroupManager.AddGroupVersion(gv.Group, apidiscoveryv2.APIVersionDiscovery{
		Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: gv.Version, Resources: discovered,
	})
	version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
	apiGroup := metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version}
	server.DiscoveryGroupManager.AddGroup(apiGroup)
	server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(server.Serializer, apiGroup).WebService())
	server.RegisterDestroyFunc(func() {
		for _, storage := range resources {
			storage.Destroy()
		}
	})
	for resource, storage := range resources {
		if ready, ok := storage.(rest.StorageWithReadiness); ok {
			server.StorageReadinessHook.RegisterStorage(metav1.GroupVersionResource{Group: gv.Group, Version: gv.Version, Resource: resource}, ready)
		}
	}
	return nil
}

// machineConverter knows the fields of the group's kinds from their OpenAPI models.
func machineConverter(config *common.OpenAPIV3Config, scheme *runtime.Scheme, gv schema.GroupVersion, resources map[string]rest.Storage) (managedfields.TypeConverter, error) {
	var names []string
	for resource, storage := range resources {
		kind, err := genericapi.GetResourceKind(gv, storage, scheme)
		if err != nil {
			return nil, fmt.Errorf("find the kind of %s: %w", resource, err)
		}
		sample, err := scheme.New(kind)
		if err != nil {
			return nil, fmt.Errorf("make a %s: %w", kind, err)
		}
		names = append(names, openapiutil.GetCanonicalTypeName(sample))
	}
	models, err := builder3.BuildOpenAPIDefinitionsForResources(config, names...)
	if err != nil {
		return nil, fmt.Errorf("build the OpenAPI models of %s: %w", gv, err)
	}
	converter, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI models of %s: %w", gv, err)
	}
	return unstructuredFirst{converter}, nil
}

// unstructuredFirst hands objects on as maps.
type unstructuredFirst struct{ managedfields.TypeConverter }

func (c unstructuredFirst) ObjectToTyped(obj runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("read the fields of a %s: %w", gvk.Kind, err)
	}
	u := &unstructured.Unstructured{Object: fields}
	u.SetGroupVersionKind(gvk)
	return c.TypeConverter.ObjectToTyped(u, options...)
}
