package service

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WithCondition gives a copy of the Service with one condition as wanted (nil:
// absent), or false when it says so already. The transition time alone is no news.
func WithCondition(svc *corev1.Service, kind string, want *metav1.Condition) (*corev1.Service, bool) {
	now := meta.FindStatusCondition(svc.Status.Conditions, kind)
	switch {
	case now == nil && want == nil:
		return nil, false
	case now != nil && want != nil && now.Status == want.Status && now.Reason == want.Reason &&
		now.Message == want.Message && now.ObservedGeneration == want.ObservedGeneration:
		return nil, false
	}
	next := svc.DeepCopy()
	next.ManagedFields = nil // the server keeps its own
	if want == nil {
		meta.RemoveStatusCondition(&next.Status.Conditions, kind)
	} else {
		meta.SetStatusCondition(&next.Status.Conditions, *want)
	}
	return next, true
}
