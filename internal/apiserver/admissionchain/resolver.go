package admissionchain

import (
	"context"
	"fmt"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"portico.dev/portico/internal/apiserver/proxy"
)

// resolveTime bounds the reading of a Service and its slices, which is from memory.
const resolveTime = 5 * time.Second

// Resolver finds where a Service's webhook answers: at one of its ready endpoints. The
// API server dials that address itself, so webhooks work before, and without, any data
// plane on this host.
type Resolver struct {
	// Services and Slices are this server's own registries: no request is made.
	Services rest.Getter
	Slices   rest.Lister
}

// ResolveEndpoint implements the library's webhook.ServiceResolver.
func (r *Resolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	if r.Services == nil || r.Slices == nil {
		return nil, apierrors.NewServiceUnavailable("the API server is starting")
	}
	ctx, cancel := context.WithTimeout(genericrequest.WithNamespace(context.Background(), namespace), resolveTime)
	defer cancel()
	obj, err := r.Services.Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	service := obj.(*corev1.Service)
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, fmt.Errorf("find an endpoint of Service %s/%s: its type is ExternalName; give the webhook a URL instead", namespace, name)
	}
	portName, ok := portName(service, port)
	if !ok {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
	}
	list, err := r.Slices.List(ctx, &metainternal.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}), ResourceVersion: "0",
	})
	if err != nil {
		return nil, fmt.Errorf("find the endpoints of Service %s/%s: %w", namespace, name, err)
	}
	at, err := proxy.Endpoint(service, portName, list.(*discoveryv1.EndpointSliceList).Items, nil)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: at.String()}, nil
}

func portName(s *corev1.Service, port int32) (string, bool) {
	for _, p := range s.Spec.Ports {
		if p.Port == port {
			return p.Name, true
		}
	}
	return "", false
}
