package scheduling

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// load is what the pods of a node have been promised.
type load struct {
	pods        int64
	memory, cpu resource.Quantity
}

func (l *load) add(pod *corev1.Pod) {
	l.pods++
	memory, cpu := requests(pod)
	l.memory.Add(memory)
	l.cpu.Add(cpu)
}

// requests is what a pod asks of its node: its containers together, or its
// largest init container, and its overhead.
func requests(pod *corev1.Pod) (memory, cpu resource.Quantity) {
	for _, c := range pod.Spec.Containers {
		memory.Add(*c.Resources.Requests.Memory())
		cpu.Add(*c.Resources.Requests.Cpu())
	}
	for _, c := range pod.Spec.InitContainers {
		if m := c.Resources.Requests.Memory(); m.Cmp(memory) > 0 {
			memory = m.DeepCopy()
		}
		if m := c.Resources.Requests.Cpu(); m.Cmp(cpu) > 0 {
			cpu = m.DeepCopy()
		}
	}
	memory.Add(*pod.Spec.Overhead.Memory())
	cpu.Add(*pod.Spec.Overhead.Cpu())
	return memory, cpu
}

// misfit says why the pod can't run on the node, in kube-scheduler's words; ""
// if it can. What a node doesn't say to have isn't counted.
func misfit(pod *corev1.Pod, node *corev1.Node, l load) string {
	if node.Spec.Unschedulable && !tolerates(pod, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return "node(s) were unschedulable"
	}
	if !isReady(node) {
		return "node(s) were not ready"
	}
	if taint, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, false); untolerated {
		return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)
	}
	if match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !match {
		return "node(s) didn't match Pod's node affinity/selector"
	}
	memory, cpu := requests(pod)
	memory.Add(l.memory)
	cpu.Add(l.cpu)
	allocatable := node.Status.Allocatable
	if has, ok := allocatable[corev1.ResourcePods]; ok && l.pods >= has.Value() {
		return "Too many pods"
	}
	if has, ok := allocatable[corev1.ResourceMemory]; ok && memory.Cmp(has) > 0 {
		return "Insufficient memory"
	}
	if has, ok := allocatable[corev1.ResourceCPU]; ok && cpu.Cmp(has) > 0 {
		return "Insufficient cpu"
	}
	return ""
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, taint, false)
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// choose returns the node that has the smallest part of its memory promised, of
// those the fewest pods, of those the first by name. "": no node fits, and why.
func choose(pod *corev1.Pod, nodes []*corev1.Node, loads map[string]load) (name, why string) {
	var best *corev1.Node
	reasons := map[string]int{}
	for _, node := range nodes {
		if reason := misfit(pod, node, loads[node.Name]); reason != "" {
			reasons[reason]++
			continue
		}
		if best == nil || compare(node, best, loads) < 0 {
			best = node
		}
	}
	if best != nil {
		return best.Name, ""
	}
	return "", unavailable(len(nodes), reasons)
}

func compare(a, b *corev1.Node, loads map[string]load) int {
	la, lb := loads[a.Name], loads[b.Name]
	return cmp.Or(
		cmp.Compare(usedPart(a, la), usedPart(b, lb)),
		cmp.Compare(la.pods, lb.pods),
		cmp.Compare(a.Name, b.Name),
	)
}

func usedPart(node *corev1.Node, l load) float64 {
	total := node.Status.Allocatable.Memory().AsApproximateFloat64()
	if total <= 0 {
		return 0
	}
	return l.memory.AsApproximateFloat64() / total
}

func unavailable(nodes int, reasons map[string]int) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%d %s", reasons[reason], reason))
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}
