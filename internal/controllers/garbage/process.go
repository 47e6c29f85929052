package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
)

// process does what is to be done about one object, after reading it anew.
func (c *controller) process(ctx context.Context, it item) error {
	if c.settled(it) {
		return nil
	}
	live, err := c.read(ctx, it.resource, it.namespace, it.name)
	if err != nil || live == nil || live.UID != it.uid {
		return err // an object that is gone has told so to its dependents
	}
	switch {
	case live.DeletionTimestamp != nil && slices.Contains(live.Finalizers, metav1.FinalizerOrphanDependents):
		return c.orphan(ctx, it, live)
	case waiting(live):
		return c.foreground(ctx, it, live)
	case live.DeletionTimestamp != nil || len(live.OwnerReferences) == 0:
		return nil
	}
	return c.judge(ctx, it, live)
}

// settled: the caches show no reason to look any further. At the start, when
// they are filled one after the other, that ends most suspicions.
func (c *controller) settled(it item) bool {
	c.mu.RLock()
	m := c.monitors[it.resource.GroupResource()]
	c.mu.RUnlock()
	if m == nil {
		return true
	}
	k := m.get(name{it.namespace, it.name})
	return k == nil || k.uid != it.uid || (!k.suspicious() && c.ownersSeen(k))
}

// judge looks for the object's owners, one by one, and deletes the object if
// none is left.
func (c *controller) judge(ctx context.Context, it item, live *object) error {
	states := make([]ownerState, len(live.OwnerReferences))
	for i, ref := range live.OwnerReferences {
		var err error
		states[i], err = c.owner(ctx, live.Namespace, ref)
		if errors.Is(err, errUnknownKind) {
			// Only a new kind can change the answer, so there is no hurry.
			c.Log.Debug("an owner can't be looked for", "object", it.String(), "owner", ref.Name, "err", err)
			c.queue.AddAfter(it, discoverEvery)
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for owner %s %s of %s: %w", ref.Kind, ref.Name, it, err)
		}
	}
	dependents := c.dependents(it.uid)
	v := decide(live, states, len(dependents) > 0)
	switch {
	case v.keep != nil:
		return c.patch(ctx, it, live, map[string]any{"ownerReferences": v.keep})
	case v.policy == "":
		return nil
	}
	if v.policy == metav1.DeletePropagationForeground && slices.ContainsFunc(dependents, func(d dependent) bool { return d.known.waiting }) {
		// A circle of owners would wait for itself.
		if err := c.unblock(ctx, it, live); err != nil {
			return err
		}
	}
	return c.remove(ctx, it, live, v.policy)
}

// foreground serves the finalizer foregroundDeletion: dependents are deleted
// first, and those that block are waited for.
func (c *controller) foreground(ctx context.Context, it item, live *object) error {
	if slow := c.unsynced(); slow != nil {
		return fmt.Errorf("delete dependents of %s: %s can't be listed yet", it, slow.resource.GroupResource())
	}
	blocked := false
	for _, d := range c.dependents(it.uid) {
		blocked = blocked || d.blocks
		if !d.known.ending {
			c.queue.Add(d.monitor.item(d.known))
		}
	}
	if blocked {
		return nil // the last one's end wakes us
	}
	return c.dropFinalizer(ctx, it, live, metav1.FinalizerDeleteDependents)
}

// orphan serves the finalizer orphan: dependents lose their reference and stay.
// It reads the lists themselves: a dependent that a cache doesn't show yet would
// be deleted as soon as its owner is gone.
func (c *controller) orphan(ctx context.Context, it item, live *object) error {
	for _, m := range c.all() {
		if it.namespace != "" && !m.resource.Namespaced {
			continue // a namespaced object can't own a cluster's
		}
		if err := c.orphanKind(ctx, it, m); err != nil {
			return err
		}
	}
	return c.dropFinalizer(ctx, it, live, metav1.FinalizerOrphanDependents)
}

func (c *controller) orphanKind(ctx context.Context, owner item, m *monitor) error {
	next := metav1.ListOptions{Limit: 500}
	for {
		list, err := c.Metadata.Resource(m.resource.GroupVersionResource).Namespace(owner.namespace).List(ctx, next)
		if err != nil {
			return fmt.Errorf("list %s for the orphans of %s: %w", m.resource.GroupResource(), owner, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			kept := slices.DeleteFunc(slices.Clone(o.OwnerReferences), func(r metav1.OwnerReference) bool { return r.UID == owner.uid })
			if len(kept) == len(o.OwnerReferences) {
				continue
			}
			if err := c.patch(ctx, m.item(knownOf(o)), o, map[string]any{"ownerReferences": kept}); err != nil {
				return err
			}
		}
		if next.Continue = list.Continue; next.Continue == "" {
			return nil
		}
	}
}

var errUnknownKind = errors.New("the API doesn't serve this kind")

// owner asks the API about an owner. An error means that it can't be told.
func (c *controller) owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (ownerState, error) {
	named := reference{ref.APIVersion, ref.Kind, namespace, ref.Name, ref.UID}
	if _, known := c.absent.Get(named); known {
		return ownerAbsent, nil
	}
	if _, k := c.cachedOwner(namespace, ownerOf(&ref)); k != nil && !k.waiting {
		return ownerPresent, nil // if no longer, its event is on the way
	}
	r, _, ok := c.resourceOf(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: %s of %s", errUnknownKind, ref.Kind, ref.APIVersion)
	case !r.Namespaced:
		namespace = ""
	case namespace == "":
		// A cluster's object names no namespace to look in: nobody can tell.
		return ownerPresent, nil
	}
	live, err := c.read(ctx, r.GroupVersionResource, namespace, ref.Name)
	switch {
	case err != nil:
		return 0, err
	case live == nil || live.UID != ref.UID:
		c.absent.Add(named, struct{}{})
		return ownerAbsent, nil
	case waiting(live):
		return ownerWaiting, nil
	}
	return ownerPresent, nil
}

// read gets an object's metadata from the API; nil: there is no such object. A
// path that isn't served answers 404 too, and that says nothing about objects.
func (c *controller) read(ctx context.Context, r schema.GroupVersionResource, namespace, name string) (*object, error) {
	live, err := c.client(r, namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return live, nil
	case apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return nil, nil
	}
	return nil, fmt.Errorf("read %s %s: %w", r.GroupResource(), name, err)
}

func (c *controller) client(r schema.GroupVersionResource, namespace string) metadata.ResourceInterface {
	if namespace == "" {
		return c.Metadata.Resource(r)
	}
	return c.Metadata.Resource(r).Namespace(namespace)
}

// remove deletes the object if it is still as it was read.
func (c *controller) remove(ctx context.Context, it item, live *object, policy metav1.DeletionPropagation) error {
	options := metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &live.UID}}
	if live.ResourceVersion != "" {
		options.Preconditions.ResourceVersion = &live.ResourceVersion
	}
	err := c.client(it.resource, it.namespace).Delete(ctx, it.name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s, whose owners are gone: %w", it, err)
	}
	c.Log.Debug("deleted garbage", "object", it.String(), "policy", policy)
	return nil
}

func (c *controller) unblock(ctx context.Context, it item, live *object) error {
	refs := slices.Clone(live.OwnerReferences)
	for i := range refs {
		no := false
		refs[i].BlockOwnerDeletion = &no
	}
	if err := c.patch(ctx, it, live, map[string]any{"ownerReferences": refs}); err != nil {
		return err
	}
	live.ResourceVersion = "" // it is another now; the UID still guards the deletion
	return nil
}

func (c *controller) dropFinalizer(ctx context.Context, it item, live *object, finalizer string) error {
	left := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, it, live, map[string]any{"finalizers": left})
}

// patch changes metadata of an object if it is still as it was read.
func (c *controller) patch(ctx context.Context, it item, live *object, change map[string]any) error {
	change["uid"] = live.UID
	if live.ResourceVersion != "" {
		change["resourceVersion"] = live.ResourceVersion
	}
	body, err := json.Marshal(map[string]any{"metadata": change})
	if err != nil {
		return fmt.Errorf("patch %s: %w", it, err)
	}
	_, err = c.client(it.resource, it.namespace).Patch(ctx, it.name, types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %s: %w", it, err)
	}
	return nil
}

func (c *controller) unsynced() *monitor {
	for _, m := range c.all() {
		if !m.synced() {
			return m
		}
	}
	return nil
}

func (it item) String() string {
	if it.namespace == "" {
		return it.resource.GroupResource().String() + " " + it.name
	}
	return it.resource.GroupResource().String() + " " + it.namespace + "/" + it.name
}
