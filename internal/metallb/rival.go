package metallb

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

var deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

// rivals select the Deployment of MetalLB's controller as its manifests and operator make
// it, and as its Helm chart does. The controller takes no Lease, and its definitions and
// webhooks may be left of one that is gone: the Deployment is the only sign of its work.
var rivals = []string{
	"app=metallb,component=controller",
	"app.kubernetes.io/name=metallb,app.kubernetes.io/component=controller",
}

// Rival finds the Deployment of MetalLB's own controller, which gives addresses of the same
// pools; nil: there is none, or it has no replicas. Who may not look gets the API's error.
func Rival(ctx context.Context, client dynamic.Interface) (*unstructured.Unstructured, error) {
	for _, labels := range rivals {
		list, err := client.Resource(deployments).List(ctx, metav1.ListOptions{LabelSelector: labels})
		if apierrors.IsNotFound(err) {
			return nil, nil // an API without Deployments
		}
		if err != nil {
			return nil, fmt.Errorf("look for MetalLB's controller: %w", err)
		}
		for i := range list.Items {
			replicas, found, err := unstructured.NestedInt64(list.Items[i].Object, "spec", "replicas")
			if err != nil || !found || replicas > 0 { // unsaid means one
				return &list.Items[i], nil
			}
		}
	}
	return nil, nil
}
