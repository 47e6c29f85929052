package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// MatchedCondition on a Service is False while no pod has the labels that
	// its selector asks for, with a message that names what came closest. It is
	// absent while some do.
	MatchedCondition = "portico.dev/EndpointsMatched"
	reasonNoPod      = "NoPodMatches"
)

// NoMatchCondition is the condition of a Service whose selector matches none of
// the pods (all those of its namespace), or nil when it matches some, or when it
// doesn't look for pods (EP-06). The caller sets the transition time.
func NoMatchCondition(svc *corev1.Service, pods []*corev1.Pod) *metav1.Condition {
	if !HasPodEndpoints(svc) {
		return nil
	}
	var best near
	var name string
	alike, seen := 0, false
	for _, pod := range pods {
		if pod.Namespace != svc.Namespace || ended(pod) {
			continue
		}
		n := nearness(svc.Spec.Selector, pod.Labels)
		switch c := n.compare(best); {
		case n.equal == len(svc.Spec.Selector):
			return nil
		case !seen || c > 0:
			best, name, alike, seen = n, pod.Name, 0, true
		case c == 0:
			alike++
			name = min(name, pod.Name)
		}
	}
	return &metav1.Condition{
		Type:               MatchedCondition,
		Status:             metav1.ConditionFalse,
		Reason:             reasonNoPod,
		ObservedGeneration: svc.Generation,
		Message:            noMatchMessage(svc, pods, seen, best, name, alike),
	}
}

// near counts how close a pod's labels come to a selector.
type near struct {
	equal int // pairs that match
	keys  int // keys that exist, with another value
}

func (n near) compare(o near) int {
	return cmp.Or(cmp.Compare(n.equal, o.equal), cmp.Compare(n.keys, o.keys))
}

func nearness(selector, labels map[string]string) near {
	var n near
	for key, value := range selector {
		switch got, ok := labels[key]; {
		case ok && got == value:
			n.equal++
		case ok:
			n.keys++
		}
	}
	return n
}

func noMatchMessage(svc *corev1.Service, pods []*corev1.Pod, seen bool, best near, name string, alike int) string {
	wanted := pairs(svc.Spec.Selector)
	if !seen {
		return fmt.Sprintf("the selector %s matches no pod: namespace %s has no running pod", wanted, svc.Namespace)
	}
	if best == (near{}) {
		return fmt.Sprintf("the selector %s matches no pod: no pod of namespace %s has any of these labels", wanted, svc.Namespace)
	}
	at := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return p.Name == name && p.Namespace == svc.Namespace })
	others := ""
	if alike > 0 {
		others = fmt.Sprintf(" (and %d more like it)", alike)
	}
	return fmt.Sprintf("the selector %s matches no pod; closest is pod %s%s, which has %s",
		wanted, name, others, differences(svc.Spec.Selector, pods[at].Labels))
}

// differences says for each wanted label what the pod has.
func differences(selector, labels map[string]string) string {
	var has, lacks []string
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		switch got, ok := labels[key]; {
		case ok && got == selector[key]:
			has = append(has, key+"="+got)
		case ok:
			lacks = append(lacks, fmt.Sprintf("%s=%s instead of %s", key, got, selector[key]))
		default:
			lacks = append(lacks, "no label "+key)
		}
	}
	if len(has) == 0 {
		return strings.Join(lacks, " and ")
	}
	return strings.Join(has, ", ") + ", but " + strings.Join(lacks, " and ")
}

func pairs(selector map[string]string) string {
	out := make([]string, 0, len(selector))
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		out = append(out, key+"="+selector[key])
	}
	return strings.Join(out, ",")
}
