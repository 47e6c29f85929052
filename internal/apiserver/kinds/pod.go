package kinds

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"portico.dev/portico/internal/apiserver/registry"
)

func podKind() registry.Kind[*corev1.Pod] {
	return registry.Kind[*corev1.Pod]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "pods", Singular: "pod", Short: []string{"po"}, All: true, Namespaced: true,
		NewObject: func() *corev1.Pod { return &corev1.Pod{} },
		NewList:   func() runtime.Object { return &corev1.PodList{} },
		Fields:    podFields,
		Rules: registry.Rules[*corev1.Pod]{
			PrepareCreate: func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} },
			Validate: func(p *corev1.Pod) field.ErrorList {
				return append(validateMeta(&p.ObjectMeta, true, validation.NameIsDNSSubdomain), validatePodSpec(&p.Spec)...)
			},
			ValidateUpdate: validatePodUpdate,
			Graceful:       podGrace,
		},
		Table: registry.Table[*corev1.Pod]{
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Ready", "Ready containers of all."), registry.Column("Status", "Phase, or the reason of its state."),
				registry.Column("Restarts", "Restarts of all containers."), registry.Wide("IP", "Primary address."), registry.Wide("Node", "Where it runs."),
				registry.Wide("Nominated Node", "Where it may be placed."), registry.Wide("Readiness Gates", "Conditions that must hold beside the containers'."),
			},
			Row: podRow,
		},
	}
}

func podFields(p *corev1.Pod) fields.Set {
	return fields.Set{
		"spec.nodeName": p.Spec.NodeName, "spec.restartPolicy": string(p.Spec.RestartPolicy),
		"spec.schedulerName": p.Spec.SchedulerName, "spec.serviceAccountName": p.Spec.ServiceAccountName,
		"spec.hostNetwork": strconv.FormatBool(p.Spec.HostNetwork), "status.phase": string(p.Status.Phase),
		"status.podIP": p.Status.PodIP, "status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// podGrace is how long a pod may take to end: nothing where it doesn't run. A second
// deletion may shorten it; below zero means as fast as a grace period allows.
func podGrace(p *corev1.Pod, asked *int64) int64 {
	period := int64(podGracePeriod)
	if p.Spec.TerminationGracePeriodSeconds != nil {
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if asked != nil {
		period = *asked
	}
	ended := p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	if p.Spec.NodeName == "" || ended {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	return period
}

func validatePodSpec(spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("containers"), ""))
	}
	seen := map[string]bool{}
	for i, c := range spec.Containers {
		at := path.Child("containers").Index(i)
		for _, msg := range utilvalidation.IsDNS1123Label(c.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, msg))
		}
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen[c.Name] = true
		if c.Image == "" {
			errs = append(errs, field.Required(at.Child("image"), ""))
		}
		for j, p := range c.Ports {
			for _, msg := range utilvalidation.IsValidPortNum(int(p.ContainerPort)) {
				errs = append(errs, field.Invalid(at.Child("ports").Index(j).Child("containerPort"), p.ContainerPort, msg))
			}
		}
	}
	for _, name := range []struct{ field, value string }{{"hostname", spec.Hostname}, {"subdomain", spec.Subdomain}} {
		if name.value == "" {
			continue
		}
		for _, msg := range utilvalidation.IsDNS1123Label(name.value) {
			errs = append(errs, field.Invalid(path.Child(name.field), name.value, msg))
		}
	}
	return errs
}

// validatePodUpdate lets only those fields of a spec change that a running pod can
// follow.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := validateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	spec := *p.Spec.DeepCopy()
	for i := range spec.Containers {
		if i < len(old.Spec.Containers) {
			spec.Containers[i].Image = old.Spec.Containers[i].Image
		}
	}
	spec.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	spec.Tolerations = old.Spec.Tolerations
	spec.TerminationGracePeriodSeconds = old.Spec.TerminationGracePeriodSeconds
	if !equality.Semantic.DeepEqual(spec, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"),
			"pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"))
	}
	return errs
}

func podRow(p *corev1.Pod) []any {
	ready, restarts := 0, int32(0)
	for _, c := range p.Status.ContainerStatuses {
		restarts += c.RestartCount
		if c.Ready {
			ready++
		}
	}
	return []any{
		fmt.Sprintf("%d/%d", ready, len(p.Spec.Containers)), podReason(p), strconv.Itoa(int(restarts)),
		none(p.Status.PodIP), none(p.Spec.NodeName), none(p.Status.NominatedNodeName), readinessGates(p),
	}
}

// podReason is the word that tells most about a pod's state.
func podReason(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "Terminating"
	}
	reason := string(p.Status.Phase)
	if p.Status.Reason != "" {
		reason = p.Status.Reason
	}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			reason = c.State.Waiting.Reason
		case c.State.Terminated != nil && c.State.Terminated.Reason != "":
			reason = c.State.Terminated.Reason
		}
	}
	return reason
}

func readinessGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, g := range p.Spec.ReadinessGates {
		for _, c := range p.Status.Conditions {
			if c.Type == g.ConditionType && c.Status == corev1.ConditionTrue {
				met++
			}
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

// bindingStorage serves pods/binding: it puts a pod on a node.
type bindingStorage struct{ pods *genericregistry.Store }

func (b *bindingStorage) New() runtime.Object  { return &corev1.Binding{} }
func (b *bindingStorage) Destroy()             {}
func (b *bindingStorage) bad(msg string) error { return apierrors.NewBadRequest(msg) }
func (b *bindingStorage) conflict(n, s string) error {
	return apierrors.NewConflict(corev1.Resource("pods/binding"), n, fmt.Errorf("%s", s))
}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID of a Binding,
// which is a precondition, from being taken for one that the server should give.
func (b *bindingStorage) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (b *bindingStorage) Create(ctx context.Context, name string, obj runtime.Object, _ rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	switch {
	case !ok:
		return nil, b.bad(fmt.Sprintf("not a Binding object: %T", obj))
	case binding.Name != "" && binding.Name != name:
		return nil, b.bad("name in URL does not match name in Binding object")
	case binding.Target.Kind != "" && binding.Target.Kind != "Node":
		return nil, b.bad(fmt.Sprintf("target.kind: unsupported value %q: only Node can be bound to", binding.Target.Kind))
	case binding.Target.Name == "":
		return nil, b.bad("target.name: the node's name is required")
	}
	update := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		pod := old.(*corev1.Pod).DeepCopy()
		switch {
		case binding.UID != "" && binding.UID != pod.UID:
			return nil, b.conflict(name, fmt.Sprintf("the UID in the precondition: %s, does not match the UID in record: %s", binding.UID, pod.UID))
		case pod.DeletionTimestamp != nil:
			return nil, b.conflict(name, fmt.Sprintf("pod %s is being deleted, cannot be assigned to a host", name))
		case pod.Spec.NodeName != "":
			return nil, b.conflict(name, fmt.Sprintf("pod %s is already assigned to node %q", name, pod.Spec.NodeName))
		}
		pod.Spec.NodeName = binding.Target.Name
		setScheduled(&pod.Status)
		return pod, nil
	})
	store := *b.pods
	store.UpdateStrategy = bindStrategy{b.pods.UpdateStrategy}
	_, _, err := store.Update(ctx, name, update, nil, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{DryRun: options.DryRun})
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// bindStrategy lets the one write change spec.nodeName and the condition with it.
type bindStrategy struct{ rest.RESTUpdateStrategy }

func (bindStrategy) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}
func (bindStrategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

func setScheduled(status *corev1.PodStatus) {
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == corev1.PodScheduled {
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionTrue, "", "", metav1.Now()
			return
		}
	}
	status.Conditions = append(status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
}
