//lint:file-ignore SA1019 Endpoints is deprecated, and kept all the same (EP-04).

package endpoints

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	core "portico.dev/portico/internal/core/endpoints"
	rules "portico.dev/portico/internal/core/service"
)

// writeSlices carries a plan out, in its order. It stops at the first failure of
// a create or update: to go on with deletions could leave an endpoint nowhere.
func (c *controller) writeSlices(ctx context.Context, svc *corev1.Service, plan core.Plan) error {
	key := nameOf(svc)
	defer c.writtenSlices.begin(key)()
	client := c.Client.DiscoveryV1().EndpointSlices(svc.Namespace)
	for _, s := range plan.Create {
		if svc.DeletionTimestamp != nil {
			break // what its deletion waits for must not be made anew
		}
		made, err := client.Create(ctx, s, metav1.CreateOptions{})
		if err != nil {
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // it, and the Service, are about to go
			}
			return fmt.Errorf("create EndpointSlice %s/%s of Service %s: %w", s.Namespace, s.Name, svc.Name, err)
		}
		c.writtenSlices.put(key, made)
	}
	for _, s := range plan.Update {
		made, err := client.Update(ctx, s, metav1.UpdateOptions{})
		if err != nil {
			c.contradicted(key, s.Name, err)
			return fmt.Errorf("update EndpointSlice %s/%s of Service %s: %w", s.Namespace, s.Name, svc.Name, err)
		}
		c.writtenSlices.put(key, made)
	}
	for _, s := range plan.Delete {
		if err := c.deleteSlice(ctx, key, s); err != nil {
			return err
		}
	}
	return nil
}

func (c *controller) deleteSlice(ctx context.Context, key types.NamespacedName, s *discoveryv1.EndpointSlice) error {
	err := c.Client.DiscoveryV1().EndpointSlices(s.Namespace).Delete(ctx, s.Name, unchanged(s))
	if err != nil && !apierrors.IsNotFound(err) {
		c.contradicted(key, s.Name, err)
		return fmt.Errorf("delete EndpointSlice %s/%s of Service %s: %w", s.Namespace, s.Name, key.Name, err)
	}
	c.writtenSlices.gone(key, s)
	return nil
}

// contradicted forgets what we believed of a slice when the server knows better:
// the next try sees what the cache says.
func (c *controller) contradicted(key types.NamespacedName, name string, err error) {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		c.writtenSlices.forget(key, name)
	}
}

// writeObject keeps the Endpoints object (EP-04).
func (c *controller) writeObject(ctx context.Context, svc *corev1.Service, pods []*corev1.Pod, now *corev1.Endpoints, trigger time.Time) error {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if now != nil && core.ManagedEndpoints(now) {
			return c.deleteObject(ctx, now)
		}
		return nil
	}
	want := core.Endpoints(svc, pods)
	if now == nil {
		if svc.DeletionTimestamp != nil {
			return nil
		}
		return c.createObject(ctx, core.NewEndpoints(want, trigger))
	}
	next, changed := core.UpdateEndpoints(now, want, trigger)
	if !changed {
		return nil
	}
	made, err := c.Client.CoreV1().Endpoints(svc.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			c.writtenObjects.forget(nameOf(svc), svc.Name)
		}
		return fmt.Errorf("update Endpoints %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	c.writtenObjects.put(nameOf(svc), made)
	return nil
}

func (c *controller) createObject(ctx context.Context, e *corev1.Endpoints) error {
	made, err := c.Client.CoreV1().Endpoints(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
	if err != nil {
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("create Endpoints %s/%s: %w", e.Namespace, e.Name, err)
	}
	c.writtenObjects.put(nameOf(made), made)
	return nil
}

func (c *controller) deleteObject(ctx context.Context, e *corev1.Endpoints) error {
	err := c.Client.CoreV1().Endpoints(e.Namespace).Delete(ctx, e.Name, unchanged(e))
	if err != nil && !apierrors.IsNotFound(err) {
		c.writtenObjects.forget(nameOf(e), e.Name)
		return fmt.Errorf("delete Endpoints %s/%s: %w", e.Namespace, e.Name, err)
	}
	c.writtenObjects.gone(nameOf(e), e)
	return nil
}

// noteMatch keeps the condition that says that the selector matches nothing
// (EP-06). It comes some time after the fact, because most Services are made a
// moment before their pods, and goes at once.
func (c *controller) noteMatch(ctx context.Context, svc *corev1.Service, matched int) error {
	key := nameOf(svc)
	now := c.Clock.Now()
	if matched > 0 || !core.HasPodEndpoints(svc) {
		c.unmatched.forget(key)
		return c.setCondition(ctx, svc, nil)
	}
	due, again := c.unmatched.due(key, now)
	if again > 0 {
		c.rest.AddAfter(key, again)
	}
	if !due {
		return nil
	}
	pods, err := c.podsOf(svc.Namespace)
	if err != nil {
		return err
	}
	want := core.NoMatchCondition(svc, pods)
	if want != nil {
		want.LastTransitionTime = metav1.NewTime(now)
	}
	return c.setCondition(ctx, svc, want)
}

func (c *controller) setCondition(ctx context.Context, svc *corev1.Service, want *metav1.Condition) error {
	next, changed := rules.WithCondition(svc, core.MatchedCondition, want)
	if !changed {
		return nil
	}
	_, err := c.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("write condition %s of Service %s/%s: %w", core.MatchedCondition, svc.Namespace, svc.Name, err)
	}
	return nil
}
