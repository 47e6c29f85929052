package namespaces

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// report is what one look at a namespace found.
type report struct {
	discovery  map[schema.GroupVersion]error // what can't be known
	content    []error                       // what couldn't be listed or deleted
	remaining  map[schema.GroupResource]int  // objects that are still there
	finalizers map[string]int                // and what they wait for
	complete   bool                          // every kind was looked at
}

// clean says that the namespace is known to be empty.
func (r *report) clean() bool {
	return r.complete && len(r.discovery) == 0 && len(r.content) == 0 && len(r.remaining) == 0
}

// failure is what to try again for, if anything failed.
func (r *report) failure() error {
	errs := slices.Clone(r.content)
	for _, gv := range slices.SortedFunc(maps.Keys(r.discovery), byText) {
		errs = append(errs, fmt.Errorf("discover %s: %w", gv, r.discovery[gv]))
	}
	return errors.Join(errs...)
}

func byText[T fmt.Stringer](a, b T) int { return cmp.Compare(a.String(), b.String()) }

// conditions puts the report in the words that clients of Kubernetes know. That
// of group version parsing is always good: discovery fails as a whole instead.
func (r *report) conditions() []corev1.NamespaceCondition {
	out := []corev1.NamespaceCondition{
		good(corev1.NamespaceDeletionDiscoveryFailure, "ResourcesDiscovered", "All resources successfully discovered"),
		good(corev1.NamespaceDeletionGVParsingFailure, "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		good(corev1.NamespaceDeletionContentFailure, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		good(corev1.NamespaceContentRemaining, "ContentRemoved", "All content successfully removed"),
		good(corev1.NamespaceFinalizersRemaining, "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
	bad := func(i int, reason, message string) {
		out[i].Status, out[i].Reason, out[i].Message = corev1.ConditionTrue, reason, message
	}
	if len(r.discovery) > 0 {
		var texts []string
		for _, gv := range slices.SortedFunc(maps.Keys(r.discovery), byText) {
			texts = append(texts, fmt.Sprintf("%s: %v", gv, r.discovery[gv]))
		}
		bad(0, "DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups, %d failing: %s", len(texts), strings.Join(texts, ", ")))
	}
	if len(r.content) > 0 {
		var texts []string
		for _, err := range r.content {
			texts = append(texts, err.Error())
		}
		bad(2, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(texts), strings.Join(texts, ", ")))
	}
	if len(r.remaining) > 0 {
		var texts []string
		for _, gr := range slices.SortedFunc(maps.Keys(r.remaining), func(a, b schema.GroupResource) int { return cmp.Compare(a.String(), b.String()) }) {
			texts = append(texts, fmt.Sprintf("%s.%s has %d resource instances", gr.Resource, gr.Group, r.remaining[gr]))
		}
		bad(3, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(texts, ", "))
	}
	if len(r.finalizers) > 0 {
		var texts []string
		for _, f := range slices.Sorted(maps.Keys(r.finalizers)) {
			texts = append(texts, fmt.Sprintf("%s in %d resource instances", f, r.finalizers[f]))
		}
		bad(4, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(texts, ", "))
	}
	return out
}

func good(t corev1.NamespaceConditionType, reason, message string) corev1.NamespaceCondition {
	return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

// setCondition says whether it changed something.
func setCondition(status *corev1.NamespaceStatus, want corev1.NamespaceCondition, now metav1.Time) bool {
	want.LastTransitionTime = now
	at := slices.IndexFunc(status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == want.Type })
	if at < 0 {
		status.Conditions = append(status.Conditions, want)
		return true
	}
	old := status.Conditions[at]
	if old.Status == want.Status && old.Reason == want.Reason && old.Message == want.Message {
		return false
	}
	if old.Status == want.Status {
		want.LastTransitionTime = old.LastTransitionTime
	}
	status.Conditions[at] = want
	return true
}
