//lint:file-ignore SA1019 Endpoints is deprecated, and kept all the same (EP-04).

package endpoints

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/caches"
	core "portico.dev/portico/internal/core/endpoints"
)

// sync makes one Service's slices right: they are what traffic follows. Whatever else
// is to be written of it waits in a queue of its own, so that the slices of all Services
// come before it, however many change at once.
func (c *controller) sync(ctx context.Context, key types.NamespacedName) error {
	trigger := c.triggers.take(key)
	if !trigger.IsZero() {
		c.restTriggers.note(key, trigger)
	}
	c.syncing.Add(1)
	defer c.slicesDone()
	c.rest.Add(key)
	err := c.syncSlices(ctx, key, trigger)
	if err != nil && !trigger.IsZero() {
		c.triggers.note(key, trigger)
	}
	if c.writtenSlices.pending(key) {
		c.queue.AddAfter(key, memory) // should the watch never tell of it
	}
	return err
}

func (c *controller) syncSlices(ctx context.Context, key types.NamespacedName, trigger time.Time) error {
	svc, err := get[*corev1.Service](c.services, key)
	if err != nil || svc == nil {
		return err // they have the Service as owner and go by garbage collection
	}
	existing, err := c.existing(key)
	if err != nil {
		return err
	}
	var plan core.Plan
	if handWritten(svc) {
		object, err := c.object(key)
		if err != nil {
			return err
		}
		plan = core.Mirror(core.MirrorInput{
			Service: svc, Endpoints: object, Existing: existing, Taken: c.taken(key.Namespace), Trigger: trigger,
		})
	} else {
		pods, err := c.selected(svc)
		if err != nil {
			return err
		}
		plan = core.Slices(core.Input{
			Service: svc, Pods: pods, Zone: c.zone, Existing: existing, Taken: c.taken(key.Namespace), Trigger: trigger,
		})
	}
	return c.report(svc, "FailedToUpdateEndpointSlices", c.writeSlices(ctx, svc, plan))
}

// handWritten says whether the Service's Endpoints are people's.
func handWritten(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName && !core.HasPodEndpoints(svc)
}

// syncRest keeps what only people and old clients read: the Endpoints object and the
// condition.
func (c *controller) syncRest(ctx context.Context, key types.NamespacedName) error {
	c.giveWay(ctx)
	trigger := c.restTriggers.take(key)
	err := c.restAt(ctx, key, trigger)
	if err != nil && !trigger.IsZero() {
		c.restTriggers.note(key, trigger)
	}
	if c.writtenObjects.pending(key) {
		c.rest.AddAfter(key, memory)
	}
	return err
}

// slicesWait says whether a Service waits for its slices, or for their write: on few
// processors the rest would take half of them from it, and the store syncs its log for one
// after the other.
func (c *controller) slicesWait() bool { return c.queue.Waiting() > 0 || c.syncing.Load() > 0 }

// slicesDone counts a worker off, and the last one lets the rest go on.
func (c *controller) slicesDone() {
	if c.syncing.Add(-1); c.slicesWait() {
		return
	}
	select {
	case c.drained <- struct{}{}:
	default:
	}
}

// giveWay waits until no Service waits for its slices, for restPace at most.
func (c *controller) giveWay(ctx context.Context) {
	enough := c.Clock.NewTimer(restPace)
	defer enough.Stop()
	for c.slicesWait() {
		select {
		case <-c.drained:
		case <-enough.C():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *controller) restAt(ctx context.Context, key types.NamespacedName, trigger time.Time) error {
	defer c.writtenObjects.begin(key)()
	svc, err := get[*corev1.Service](c.services, key)
	if err != nil {
		return err
	}
	if svc == nil {
		c.unmatched.forget(key)
		return c.leftOver(ctx, key)
	}
	if handWritten(svc) {
		return c.noteMatch(ctx, svc, 0)
	}
	object, err := c.object(key)
	if err != nil {
		return err
	}
	pods, err := c.selected(svc)
	if err != nil {
		return err
	}
	return errors.Join(
		c.report(svc, "FailedToUpdateEndpoint", c.writeObject(ctx, svc, pods, object, trigger)),
		c.noteMatch(ctx, svc, len(pods)),
	)
}

// report tells the Service's owner of a failure that trying again may not mend.
func (c *controller) report(svc *corev1.Service, reason string, err error) error {
	if err == nil || c.Recorder == nil {
		return err
	}
	if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !errors.Is(err, context.Canceled) {
		c.Recorder.Eventf(svc, corev1.EventTypeWarning, reason, "%v", err)
	}
	return err
}

// existing are the Service's slices that are a controller's, as new as we know.
func (c *controller) existing(key types.NamespacedName) ([]*discoveryv1.EndpointSlice, error) {
	found, err := caches.SlicesOf(c.slices, key)
	if err != nil {
		return nil, err
	}
	managed := slices.DeleteFunc(found, func(s *discoveryv1.EndpointSlice) bool { return !core.Managed(s) })
	return c.writtenSlices.newest(key, managed), nil
}

// object is the Endpoints object of the name, or nil.
func (c *controller) object(key types.NamespacedName) (*corev1.Endpoints, error) {
	cached, err := get[*corev1.Endpoints](c.objects, key)
	if err != nil {
		return nil, err
	}
	var list []*corev1.Endpoints
	if cached != nil {
		list = append(list, cached)
	}
	if list = c.writtenObjects.newest(key, list); len(list) > 0 {
		return list[0], nil
	}
	return nil, nil
}

// taken says whether a slice of the name exists, whoever made it.
func (c *controller) taken(namespace string) func(string) bool {
	return func(name string) bool {
		_, exists, err := c.slices.GetByKey(namespace + "/" + name)
		return exists || err != nil
	}
}

func (c *controller) zone(node string) string {
	if n, err := get[*corev1.Node](c.nodes, types.NamespacedName{Name: node}); err == nil && n != nil {
		return zoneOf(n)
	}
	return ""
}

// selected are the pods that the Service selects, found by that label of the
// selector which the fewest pods have.
func (c *controller) selected(svc *corev1.Service) ([]*corev1.Pod, error) {
	if !core.HasPodEndpoints(svc) {
		return nil, nil
	}
	var fewest []any
	first := true
	for key, value := range svc.Spec.Selector {
		objs, err := c.pods.ByIndex(byLabel, pairKey(svc.Namespace, key, value))
		if err != nil {
			return nil, fmt.Errorf("look up pods of Service %s/%s: %w", svc.Namespace, svc.Name, err)
		}
		if first || len(objs) < len(fewest) {
			fewest, first = objs, false
		}
	}
	out := make([]*corev1.Pod, 0, len(fewest))
	for _, obj := range fewest {
		if pod := obj.(*corev1.Pod); core.Selects(svc, pod) {
			out = append(out, pod)
		}
	}
	return out, nil
}

// leftOver deletes the Endpoints object of a Service that is gone. Its slices
// have the Service as owner and go by garbage collection; an Endpoints object
// has none, because stock clients know it without.
func (c *controller) leftOver(ctx context.Context, key types.NamespacedName) error {
	object, err := c.object(key)
	if err != nil || object == nil || !core.ManagedEndpoints(object) {
		return err
	}
	return c.deleteObject(ctx, object)
}

// get reads one object of a cache; nil: there is none.
func get[T any](indexer cache.Indexer, key types.NamespacedName) (T, error) {
	var none T
	text := key.Name
	if key.Namespace != "" {
		text = key.Namespace + "/" + key.Name
	}
	obj, exists, err := indexer.GetByKey(text)
	if err != nil || !exists {
		return none, err
	}
	return obj.(T), nil
}

// unchanged makes a deletion fail when somebody wrote the object since.
func unchanged(o metav1.Object) metav1.DeleteOptions {
	uid, version := o.GetUID(), o.GetResourceVersion()
	p := &metav1.Preconditions{}
	if uid != "" {
		p.UID = &uid
	}
	if version != "" {
		p.ResourceVersion = &version
	}
	return metav1.DeleteOptions{Preconditions: p}
}
