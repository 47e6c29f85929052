package noderestriction

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
)

// Lookup gives an object of a kind, from the store itself where it is live.
type Lookup func(ctx context.Context, kind, namespace, name string, live bool) (metav1.Object, error)

// Reads is an authorizer that denies nodes the instances that aren't theirs; what it
// doesn't deny others decide. Pods aren't limited: routes and DNS are made from all of
// them, on every node.
type Reads struct{ Lookup Lookup }

var _ authorizer.Authorizer = (*Reads)(nil)

// onNode is the field by which instances are listed for one node.
const onNode = "status.nodeName"

// Authorize implements authorizer.Authorizer.
func (r *Reads) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser() == nil || !isNode(a.GetUser()) || a.GetAPIGroup() != kubevirtv1.GroupVersion.Group || a.GetResource() != "virtualmachineinstances" {
		return authorizer.DecisionNoOpinion, "", nil
	}
	node, ok := NodeName(a.GetUser())
	if !ok {
		return authorizer.DecisionDeny, "a member of the nodes' group without a node's name reads no instances", nil
	}
	if verb := a.GetVerb(); a.GetName() == "" || verb == "list" || verb == "watch" {
		// Also of one name: a watch of it goes on when another node's instance gets the name.
		if chosen(a, node) {
			return authorizer.DecisionNoOpinion, "", nil
		}
		return authorizer.DecisionDeny, fmt.Sprintf("node %q can only list and watch instances with the field selector %s=%[1]s", node, onNode), nil
	}
	for _, live := range []bool{false, true} { // a pod that was bound just now may not be in the cache yet
		own, err := r.owns(ctx, node, a.GetNamespace(), a.GetName(), live)
		if err != nil {
			return authorizer.DecisionDeny, "", err
		}
		if own {
			return authorizer.DecisionNoOpinion, "", nil
		}
	}
	return authorizer.DecisionDeny, fmt.Sprintf("node %q can only read instances whose pods are bound to it", node), nil
}

// chosen tells whether a list is of the node's own instances.
func chosen(a authorizer.Attributes, node string) bool {
	requirements, err := a.GetFieldSelector()
	return err == nil && slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == onNode && r.Value == node && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}

// owns tells whether an instance is a node's: by its status, or, before that is written, by
// the pod that was made for it. What isn't there is nobody's, and the answer is that.
func (r *Reads) owns(ctx context.Context, node, namespace, name string, live bool) (bool, error) {
	obj, err := r.Lookup(ctx, "VirtualMachineInstance", namespace, name, live)
	if apierrors.IsNotFound(err) {
		return live, nil
	}
	if err != nil {
		return false, err
	}
	vmi, ok := obj.(*kubevirtv1.VirtualMachineInstance)
	if !ok {
		return false, fmt.Errorf("the instance %s/%s is a %T", namespace, name, obj)
	}
	if vmi.Status.NodeName == node {
		return true, nil
	}
	obj, err = r.Lookup(ctx, "Pod", namespace, machine.PodName(vmi), live)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	pod, ok := obj.(*corev1.Pod)
	return ok && pod.Spec.NodeName == node && metav1.IsControlledBy(pod, vmi), nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: there are no conditions.
func (r *Reads) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(r.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (r *Reads) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
