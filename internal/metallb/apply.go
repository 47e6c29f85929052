package metallb

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	core "portico.dev/portico/internal/core/metallb"
)

// statusKind says how a type is called in the API.
func statusKind(object metav1.Object) (schema.GroupVersionResource, string, bool) {
	switch object.(type) {
	case *core.ServiceL2Status:
		return ServiceL2Statuses, "ServiceL2Status", true
	case *core.ServiceBGPStatus:
		return ServiceBGPStatuses, "ServiceBGPStatus", true
	case *core.ConfigurationState:
		return ConfigurationStates, "ConfigurationState", true
	case *core.IPAddressPool:
		return Pools, "IPAddressPool", true
	}
	return schema.GroupVersionResource{}, "", false
}

// Apply makes the API's object of this name say what this one's status says. A missing
// ServiceL2Status, ServiceBGPStatus or ConfigurationState is created, with these labels
// and owners, in the namespace metallb-system unless it names another; a missing
// IPAddressPool is nothing to write to. What is said already costs no write.
//
// The node and the Service of a status can't be changed afterwards: for others delete it
// (Delete) or take another name.
func Apply(ctx context.Context, client dynamic.Interface, object metav1.Object) error {
	resource, kind, ok := statusKind(object)
	if !ok {
		return fmt.Errorf("apply status: %T is none", object)
	}
	if object.GetNamespace() == "" {
		object.SetNamespace(core.Namespace)
	}
	if err := apply(ctx, client.Resource(resource).Namespace(object.GetNamespace()), resource, kind, object); err != nil {
		return fmt.Errorf("write status of %s %s/%s: %w", kind, object.GetNamespace(), object.GetName(), err)
	}
	return nil
}

func apply(ctx context.Context, client dynamic.ResourceInterface, resource schema.GroupVersionResource, kind string, object metav1.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return err
	}
	wanted := &unstructured.Unstructured{Object: content}
	wanted.SetAPIVersion(resource.GroupVersion().String())
	wanted.SetKind(kind)
	is, err := client.Get(ctx, object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if resource == Pools {
			return nil
		}
		wanted.SetResourceVersion("")
		wanted.SetUID("")
		is, err = client.Create(ctx, wanted, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(is.Object["status"], wanted.Object["status"]) {
		return nil
	}
	is.Object["status"] = wanted.Object["status"]
	_, err = client.UpdateStatus(ctx, is, metav1.UpdateOptions{})
	return err
}

// Delete removes an object of metallb-system; one that is gone is none to remove.
func Delete(ctx context.Context, client dynamic.Interface, resource schema.GroupVersionResource, name string) error {
	err := client.Resource(resource).Namespace(core.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s/%s: %w", resource.Resource, core.Namespace, name, err)
	}
	return nil
}
