package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

// HandOff waits until nobody sends new connections to a pod that is about to
// end. It is bounded: an error means that it gave up, and the pod ends anyway.
type HandOff func(ctx context.Context, pod *corev1.Pod) error

// SliceHandOff waits until no EndpointSlice calls the pod ready, and then for
// margin, in which the nodes' data planes follow. It gives up after limit.
func SliceHandOff(client kubernetes.Interface, clk clock.Clock, margin, limit time.Duration) HandOff {
	return func(ctx context.Context, pod *corev1.Pod) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		listed, err := untilUnlisted(ctx, client, pod)
		if err != nil {
			return fmt.Errorf("wait until no EndpointSlice calls %s/%s ready: %w", pod.Namespace, pod.Name, err)
		}
		if !listed {
			return nil // no Service selects it
		}
		t := clk.NewTimer(margin)
		defer t.Stop()
		select {
		case <-t.C():
		case <-ctx.Done():
		}
		return nil
	}
}

// untilUnlisted reports whether any slice names the pod at all.
func untilUnlisted(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (listed bool, err error) {
	slices := client.DiscoveryV1().EndpointSlices(pod.Namespace)
	// Slices without this label belong to no Service.
	opts := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName}
	list, err := slices.List(ctx, opts)
	if err != nil {
		return false, err
	}
	ready := map[string]bool{} // the slices that call it ready
	for i := range list.Items {
		names, isReady := mentions(&list.Items[i], pod.UID)
		listed = listed || names
		if isReady {
			ready[list.Items[i].Name] = true
		}
	}
	if len(ready) == 0 {
		return listed, nil
	}
	opts.ResourceVersion = list.ResourceVersion
	w, err := slices.Watch(ctx, opts)
	if err != nil {
		return listed, err
	}
	defer w.Stop()
	for len(ready) > 0 {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				return listed, fmt.Errorf("the watch ended: %w", context.Cause(ctx))
			}
			follow(ready, e, pod.UID)
		case <-ctx.Done():
			return listed, ctx.Err()
		}
	}
	return listed, nil
}

func follow(ready map[string]bool, e watch.Event, uid types.UID) {
	s, ok := e.Object.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	if _, isReady := mentions(s, uid); isReady && e.Type != watch.Deleted {
		ready[s.Name] = true
		return
	}
	delete(ready, s.Name)
}

// mentions reports whether a slice has the pod, and whether as a ready endpoint.
func mentions(s *discoveryv1.EndpointSlice, uid types.UID) (names, ready bool) {
	for _, e := range s.Endpoints {
		if e.TargetRef != nil && e.TargetRef.UID == uid {
			names = true
			// Unset means ready (EndpointConditions).
			ready = ready || e.Conditions.Ready == nil || *e.Conditions.Ready
		}
	}
	return names, ready
}
