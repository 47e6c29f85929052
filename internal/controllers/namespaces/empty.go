package namespaces

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"portico.dev/portico/internal/controllers/resources"
)

// stages is the order in which a namespace is emptied: a stage begins when the
// one before is empty. Machines come first, before the pods that run them, or
// their controller would see pods vanish and make new ones; pods end gracefully,
// and until then they have their Services, names and secrets.
func stages(all []resources.Resource) [][]resources.Resource {
	early := []schema.GroupResource{
		{Group: "kubevirt.io", Resource: "virtualmachines"},
		{Group: "kubevirt.io", Resource: "virtualmachineinstances"},
		{Resource: "pods"},
	}
	first := make([]resources.Resource, 0, len(early))
	for _, name := range early {
		for _, r := range all {
			if r.GroupResource() == name {
				first = append(first, r)
			}
		}
	}
	var rest []resources.Resource
	for _, r := range all {
		if !slices.Contains(early, r.GroupResource()) {
			rest = append(rest, r)
		}
	}
	return [][]resources.Resource{first, rest}
}

// empty deletes what is in the namespace, as far as its stage allows, and
// reports what is left.
func (c *controller) empty(ctx context.Context, namespace string, served *resources.Served) report {
	r := report{remaining: map[schema.GroupResource]int{}, finalizers: map[string]int{}}
	r.discovery = served.Failed()
	var all []resources.Resource
	for _, res := range served.Preferred {
		if res.Namespaced && res.Can("list") && (res.Can("delete") || res.Can("deletecollection")) {
			all = append(all, res)
		}
	}
	for _, stage := range stages(all) {
		for _, res := range stage {
			if err := c.emptyKind(ctx, namespace, res, &r); err != nil {
				r.content = append(r.content, err)
			}
		}
		if len(r.remaining) > 0 || len(r.content) > 0 {
			return r
		}
	}
	r.complete = true
	return r
}

// emptyKind deletes all objects of a kind and counts those that remain.
func (c *controller) emptyKind(ctx context.Context, namespace string, res resources.Resource, r *report) error {
	client := c.Metadata.Resource(res.GroupVersionResource).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return ignoreUnserved(err, "list %s", res.GroupResource())
	}
	deleting := 0
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp != nil {
			deleting++
		}
	}
	if deleting < len(list.Items) {
		if err := c.deleteKind(ctx, namespace, res, list); err != nil {
			return err
		}
		if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
			return ignoreUnserved(err, "list %s", res.GroupResource())
		}
	}
	for i := range list.Items {
		r.remaining[res.GroupResource()]++
		for _, f := range list.Items[i].Finalizers {
			r.finalizers[f]++
		}
	}
	return nil
}

// deleteKind deletes a collection in one request where the API can, else one by
// one. Graceful periods are the objects' own.
func (c *controller) deleteKind(ctx context.Context, namespace string, res resources.Resource, list *metav1.PartialObjectMetadataList) error {
	client := c.Metadata.Resource(res.GroupVersionResource).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if res.Can("deletecollection") {
		err := client.DeleteCollection(ctx, options, metav1.ListOptions{})
		if err == nil {
			return nil
		}
		if !apierrors.IsMethodNotSupported(err) {
			return ignoreUnserved(err, "delete all %s", res.GroupResource())
		}
	}
	for i := range list.Items {
		o := &list.Items[i]
		if o.DeletionTimestamp != nil {
			continue
		}
		options.Preconditions = &metav1.Preconditions{UID: &o.UID}
		if err := client.Delete(ctx, o.Name, options); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s: %w", res.GroupResource(), o.Name, err)
		}
	}
	return nil
}

// ignoreUnserved: what is discovered may still have no list (a kind that is only
// ever created), and then nothing of it is stored.
func ignoreUnserved(err error, format string, args ...any) error {
	if apierrors.IsMethodNotSupported(err) {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
