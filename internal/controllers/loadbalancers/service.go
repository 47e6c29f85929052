package loadbalancers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/pools"
	rules "portico.dev/portico/internal/core/service"
)

const (
	// Finalizer keeps a deleted Service until its address is given back. It has
	// Kubernetes' name, which tools wait for.
	Finalizer = "service.kubernetes.io/load-balancer-cleanup"
	// Condition is of Services without an address (False), or without that of the second
	// family which they prefer (True); the reason is one of core/pools'. It is absent
	// where there is nothing to say.
	Condition = "portico.dev/AddressAllocated"
)

// written is the last that this controller wrote of a Service: from replaced by to. While
// the cache shows from, it is behind.
type written struct {
	from string // resourceVersion
	to   *corev1.Service
}

// newest gives what was written where the cache doesn't show it yet.
func (c *controller) newest(svc *corev1.Service) *corev1.Service {
	if w, ok := c.written[nameOf(svc)]; ok {
		if w.from == svc.ResourceVersion && w.to.UID == svc.UID {
			return w.to
		}
		delete(c.written, nameOf(svc))
	}
	return svc
}

// wants tells whether the Service is to have an address.
func wants(svc *corev1.Service) bool { return pools.Ours(svc) && svc.DeletionTimestamp == nil }

// leftBehind tells whether the Service is to have nothing of ours, and has. What another
// class's controller wrote is its own.
func leftBehind(svc *corev1.Service) bool {
	if wants(svc) || svc.Spec.Type == corev1.ServiceTypeLoadBalancer && !pools.Ours(svc) {
		return false
	}
	_, fromPool := svc.Annotations[pools.FromPoolAnnotation]
	return fromPool || pools.Ours(svc) && slices.Contains(svc.Finalizers, Finalizer)
}

// service gives one Service what it should have.
func (c *controller) service(ctx context.Context, name types.NamespacedName) error {
	obj, exists, err := c.services.GetByKey(name.String())
	if err != nil {
		return err
	}
	if !exists {
		c.forget(name)
		delete(c.written, name)
		return nil
	}
	svc := c.newest(obj.(*corev1.Service))
	if !wants(svc) {
		c.forget(name)
		if !leftBehind(svc) {
			return nil
		}
		return c.write(ctx, svc, c.without(svc))
	}
	result, refusal := c.allocator.Allocate(svc, c.labelsOf(svc.Namespace))
	c.note(name, refusal, result.Partial)
	next := c.with(svc, result, refusal)
	if err := c.write(ctx, svc, next); err != nil {
		if !unknown(err) { // else it may have been written: nobody else may have the address
			c.allocator.Release(name)
			c.allocator.Hold(svc)
		}
		return err
	}
	c.tell(svc, next, refusal)
	return nil
}

func (c *controller) forget(name types.NamespacedName) {
	c.allocator.Release(name)
	c.note(name, nil, nil)
}

// lack is what a Service waits for, and why.
type lack struct {
	reason pools.Reason
	second bool // it has an address, and prefers one of the other family as well
}

// note remembers what a Service lacks.
func (c *controller) note(name types.NamespacedName, refusal, partial *pools.Refusal) {
	before := c.refused[name]
	switch {
	case refusal != nil:
		c.refused[name] = lack{reason: refusal.Reason}
	case partial != nil:
		c.refused[name] = lack{partial.Reason, true}
	default:
		delete(c.refused, name)
	}
	if c.refused[name] != before {
		c.queue.AddAfter(report, reportDelay)
	}
}

// age is when the Service was made, to try the oldest first.
func (c *controller) age(name types.NamespacedName) time.Time {
	if obj, ok, err := c.services.GetByKey(name.String()); ok && err == nil {
		return obj.(*corev1.Service).CreationTimestamp.Time
	}
	return time.Time{}
}

// with is the Service as it should be.
func (c *controller) with(svc *corev1.Service, result pools.Result, refusal *pools.Refusal) *corev1.Service {
	next := svc.DeepCopy()
	if refusal != nil {
		next = c.without(svc)
	} else if !slices.Equal(pools.Addresses(svc), result.Addresses) {
		next.Status.LoadBalancer = corev1.LoadBalancerStatus{Ingress: ingress(result.Addresses)}
	}
	if refusal == nil {
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[pools.FromPoolAnnotation] = result.Pool
		if !slices.Contains(next.Finalizers, Finalizer) {
			next.Finalizers = append(next.Finalizers, Finalizer)
		}
	}
	if changed, ok := rules.WithCondition(next, Condition, c.condition(svc, refusal, result.Partial)); ok {
		next = changed
	}
	return next
}

func ingress(addrs []netip.Addr) []corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeVIP
	var out []corev1.LoadBalancerIngress
	for _, addr := range addrs {
		out = append(out, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	return out
}

// condition says why there is no address, or one only; nil where there is nothing to say.
func (c *controller) condition(svc *corev1.Service, refusal, partial *pools.Refusal) *metav1.Condition {
	condition := &metav1.Condition{Type: Condition, Status: metav1.ConditionFalse, ObservedGeneration: svc.Generation, LastTransitionTime: metav1.NewTime(c.Clock.Now())}
	switch {
	case refusal != nil:
		condition.Reason, condition.Message = string(refusal.Reason), refusal.Message
	case partial != nil:
		condition.Status = metav1.ConditionTrue
		condition.Reason, condition.Message = string(partial.Reason), "it has an address of one family only: "+partial.Message
	default:
		return nil
	}
	return condition
}

// without is the Service with nothing of ours.
func (c *controller) without(svc *corev1.Service) *corev1.Service {
	next := svc.DeepCopy()
	next.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	delete(next.Annotations, pools.FromPoolAnnotation)
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == Finalizer })
	if changed, ok := rules.WithCondition(next, Condition, nil); ok {
		next = changed
	}
	return next
}

// write updates status and metadata at once: the status of a Service may carry both.
func (c *controller) write(ctx context.Context, svc, next *corev1.Service) error {
	if equality.Semantic.DeepEqual(svc, next) {
		return nil
	}
	is, err := c.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil // its deletion is on its way to the cache
	case err != nil:
		return fmt.Errorf("write the address of Service %s: %w", nameOf(svc), err)
	}
	if is.DeletionTimestamp == nil {
		c.written[nameOf(svc)] = written{from: c.cached(svc), to: is}
	}
	return nil
}

// cached is the version that the cache has of a Service; svc may be newer.
func (c *controller) cached(svc *corev1.Service) string {
	if w, ok := c.written[nameOf(svc)]; ok {
		return w.from
	}
	return svc.ResourceVersion
}

// unknown tells errors after which the write may have been done.
func unknown(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsInternalError(err)
}

// tell says in events what has become of a Service.
func (c *controller) tell(svc, next *corev1.Service, refusal *pools.Refusal) {
	if c.Recorder == nil {
		return
	}
	has := pools.Addresses(next)
	switch {
	case refusal != nil:
		if _, news := rules.WithCondition(svc, Condition, c.condition(svc, refusal, nil)); news {
			c.Recorder.Event(svc, corev1.EventTypeWarning, "AllocationFailed", refusal.Message)
		}
	case !slices.Equal(pools.Addresses(svc), has):
		texts := make([]string, len(has))
		for i, addr := range has {
			texts[i] = addr.String()
		}
		c.Recorder.Eventf(svc, corev1.EventTypeNormal, "IPAllocated", "Assigned %s from the IPAddressPool %s", strings.Join(texts, ", "), next.Annotations[pools.FromPoolAnnotation])
	}
}

func nameOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
