package apiserver

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	clientset "k8s.io/client-go/kubernetes"

	"k8s.io/client-go/dynamic"

	"portico.dev/portico/internal/apiserver/admissionchain"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/apiserver/registry"
)

// useAdmission puts the plugins in their order: what needs no look at the object first,
// then webhooks and policies, and the quota last, so that it charges what is stored.
func (s *Server) useAdmission(ctx context.Context, config *genericapiserver.RecommendedConfig, kube clientset.Interface, rc registryConfig, first ...admission.Interface) error {
	plainClient, err := dynamic.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("make the client of policies' parameters: %w", err)
	}
	var prefixes []string
	for _, p := range kinds.AdmissionPrefixes {
		prefixes = append(prefixes, etcd.Prefix+p)
	}
	s.hooks, err = admissionchain.NewHooks(ctx, admissionchain.Config{
		Kube: kube, Dynamic: plainClient, Informers: config.SharedInformerFactory, Decides: config.Authorization.Authorizer,
		Version: config.EffectiveVersion, Resolver: rc.resolver, Store: rc.Claims.Client, Prefixes: prefixes, Log: s.config.Logger,
	})
	if err != nil {
		return err
	}
	quota := admissionchain.NewQuota(ctx, kube, config.SharedInformerFactory)
	config.AdmissionControl = admission.NewChainHandler(append(first, s.hooks, quota)...)
	return nil
}

// resolveWith lets webhooks be found through our own registries.
func resolveWith(r *admissionchain.Resolver, s registry.Set) error {
	services, ok1 := s[corev1.SchemeGroupVersion]["services"].(rest.Getter)
	slices, ok2 := s[discoveryv1.SchemeGroupVersion]["endpointslices"].(rest.Lister)
	if !ok1 || !ok2 {
		return errors.New("set up webhooks: Services or EndpointSlices can't be read")
	}
	r.Services, r.Slices = services, slices
	return nil
}

// uncached are the resources that lie in the store for others: they have no watch cache,
// which would cost memory for each, and lists and watches of them are few.
func uncached(gr schema.GroupResource) bool {
	switch gr.Group {
	case "admissionregistration.k8s.io", "apps", "autoscaling", "batch", "certificates.k8s.io", "node.k8s.io", "policy", "resource.k8s.io",
		"scheduling.k8s.io", "storage.k8s.io":
		return true
	case "":
		switch gr.Resource {
		case "limitranges", "podtemplates", "persistentvolumes", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas":
			return true
		}
	case "networking.k8s.io":
		return gr.Resource == "ipaddresses" // one for each Service, and two of our controllers follow them
	}
	return false
}
