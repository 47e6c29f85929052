package kinds

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"

	"portico.dev/portico/internal/apiserver/registry"
)

// workloadController is who acts on the kinds of this file.
const workloadController = "a kube-controller-manager"

func workloadBuilds() []buildFunc {
	apps := appsv1.SchemeGroupVersion
	return []buildFunc{
		scalable(deploymentKind(), func(d *appsv1.Deployment) scaled {
			return scaled{&d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector}
		}),
		scalable(replicaSetKind(), func(r *appsv1.ReplicaSet) scaled {
			return scaled{&r.Spec.Replicas, r.Status.Replicas, r.Spec.Selector}
		}),
		scalable(statefulSetKind(), func(s *appsv1.StatefulSet) scaled {
			return scaled{&s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector}
		}),
		scalable(replicationControllerKind(), func(r *corev1.ReplicationController) scaled {
			return scaled{&r.Spec.Replicas, r.Status.Replicas, &metav1.LabelSelector{MatchLabels: r.Spec.Selector}}
		}),
		plain(daemonSetKind()),
		plain(registry.Stored[appsv1.ControllerRevision, appsv1.ControllerRevisionList](apps, "controllerrevisions", "controllerrevision", registry.InNamespace)),
		plain(jobKind()),
		plain(cronJobKind()),
		plain(autoscalerKind()),
	}
}

func deploymentKind() registry.Kind[*appsv1.Deployment] {
	k := registry.Stored[appsv1.Deployment, appsv1.DeploymentList](appsv1.SchemeGroupVersion, "deployments", "deployment", registry.InNamespace, "deploy").
		Checked(func(d *appsv1.Deployment) field.ErrorList {
			return validateWorkload(d.Spec.Selector, &d.Spec.Template, d.Spec.Replicas)
		}).
		Fixed(func(d, old *appsv1.Deployment) field.ErrorList {
			return sameSelector(d.Spec.Selector, old.Spec.Selector)
		}).
		Warned(unserved("Deployments", workloadController)).
		Printed(func(d *appsv1.Deployment) []any {
			names, from := images(&d.Spec.Template.Spec)
			ready := fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, number(d.Spec.Replicas))
			return []any{ready, count(d.Status.UpdatedReplicas), count(d.Status.AvailableReplicas), names, from, selectorText(d.Spec.Selector)}
		}, registry.Column("Ready", "Ready pods of those wanted."), registry.Column("Up-to-date", "Pods of the present template."),
			registry.Column("Available", "Pods that are ready for long enough."), registry.Wide("Containers", "Names of the containers."),
			registry.Wide("Images", "Images of the containers."), registry.Wide("Selector", "Which pods belong to it."))
	k.All = true
	return k
}

func replicaSetKind() registry.Kind[*appsv1.ReplicaSet] {
	k := registry.Stored[appsv1.ReplicaSet, appsv1.ReplicaSetList](appsv1.SchemeGroupVersion, "replicasets", "replicaset", registry.InNamespace, "rs").
		Checked(func(r *appsv1.ReplicaSet) field.ErrorList {
			return validateWorkload(r.Spec.Selector, &r.Spec.Template, r.Spec.Replicas)
		}).
		Fixed(func(r, old *appsv1.ReplicaSet) field.ErrorList {
			return sameSelector(r.Spec.Selector, old.Spec.Selector)
		}).
		Warned(unserved("ReplicaSets", workloadController)).
		Printed(func(r *appsv1.ReplicaSet) []any {
			return []any{count(number(r.Spec.Replicas)), count(r.Status.Replicas), count(r.Status.ReadyReplicas)}
		}, replicaColumns()...)
	k.All = true
	return k
}

func replicationControllerKind() registry.Kind[*corev1.ReplicationController] {
	k := registry.Stored[corev1.ReplicationController, corev1.ReplicationControllerList](corev1.SchemeGroupVersion, "replicationcontrollers", "replicationcontroller", registry.InNamespace, "rc").
		Checked(func(r *corev1.ReplicationController) field.ErrorList {
			template := r.Spec.Template
			if template == nil {
				return field.ErrorList{field.Required(field.NewPath("spec", "template"), "")}
			}
			return validateWorkload(&metav1.LabelSelector{MatchLabels: r.Spec.Selector}, template, r.Spec.Replicas)
		}).
		Warned(unserved("ReplicationControllers", workloadController)).
		Printed(func(r *corev1.ReplicationController) []any {
			return []any{count(number(r.Spec.Replicas)), count(r.Status.Replicas), count(r.Status.ReadyReplicas)}
		}, replicaColumns()...)
	k.All = true
	return k
}

func replicaColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		registry.Column("Desired", "How many pods are wanted."), registry.Column("Current", "How many there are."), registry.Column("Ready", "How many are ready."),
	}
}

func statefulSetKind() registry.Kind[*appsv1.StatefulSet] {
	k := registry.Stored[appsv1.StatefulSet, appsv1.StatefulSetList](appsv1.SchemeGroupVersion, "statefulsets", "statefulset", registry.InNamespace, "sts").
		Checked(func(s *appsv1.StatefulSet) field.ErrorList {
			return validateWorkload(s.Spec.Selector, &s.Spec.Template, s.Spec.Replicas)
		}).
		Fixed(func(s, old *appsv1.StatefulSet) field.ErrorList {
			errs := sameSelector(s.Spec.Selector, old.Spec.Selector)
			return append(errs, validation.ValidateImmutableField(s.Spec.ServiceName, old.Spec.ServiceName, field.NewPath("spec", "serviceName"))...)
		}).
		Warned(unserved("StatefulSets", workloadController)).
		Printed(func(s *appsv1.StatefulSet) []any {
			return []any{fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, number(s.Spec.Replicas))}
		}, registry.Column("Ready", "Ready pods of those wanted."))
	k.All = true
	return k
}

func daemonSetKind() registry.Kind[*appsv1.DaemonSet] {
	k := registry.Stored[appsv1.DaemonSet, appsv1.DaemonSetList](appsv1.SchemeGroupVersion, "daemonsets", "daemonset", registry.InNamespace, "ds").
		Checked(func(d *appsv1.DaemonSet) field.ErrorList {
			return validateWorkload(d.Spec.Selector, &d.Spec.Template, nil)
		}).
		Fixed(func(d, old *appsv1.DaemonSet) field.ErrorList {
			return sameSelector(d.Spec.Selector, old.Spec.Selector)
		}).
		Warned(unserved("DaemonSets", workloadController)).
		Printed(func(d *appsv1.DaemonSet) []any {
			return []any{
				count(d.Status.DesiredNumberScheduled), count(d.Status.CurrentNumberScheduled), count(d.Status.NumberReady),
				count(d.Status.UpdatedNumberScheduled), count(d.Status.NumberAvailable),
				labels.FormatLabels(d.Spec.Template.Spec.NodeSelector),
			}
		}, registry.Column("Desired", "How many nodes are to have one."), registry.Column("Current", "How many have one."), registry.Column("Ready", "How many are ready."),
			registry.Column("Up-to-date", "How many are of the present template."), registry.Column("Available", "How many are ready for long enough."),
			registry.Column("Node Selector", "Which nodes are to have one."))
	k.All = true
	return k
}

func jobKind() registry.Kind[*batchv1.Job] {
	k := registry.Stored[batchv1.Job, batchv1.JobList](batchv1.SchemeGroupVersion, "jobs", "job", registry.InNamespace).
		Checked(func(j *batchv1.Job) field.ErrorList { return validateJob(&j.Spec, field.NewPath("spec")) }).
		Warned(unserved("Jobs", workloadController)).
		Printed(func(j *batchv1.Job) []any {
			return []any{fmt.Sprintf("%d/%d", j.Status.Succeeded, number(j.Spec.Completions))}
		}, registry.Column("Completions", "Finished pods of those wanted."))
	k.All = true
	k.Fields = jobFields
	k.Rules.PrepareCreate = selectJobsPods
	return k
}

func cronJobKind() registry.Kind[*batchv1.CronJob] {
	k := registry.Stored[batchv1.CronJob, batchv1.CronJobList](batchv1.SchemeGroupVersion, "cronjobs", "cronjob", registry.InNamespace, "cj").
		Checked(func(c *batchv1.CronJob) field.ErrorList {
			errs := validateJob(&c.Spec.JobTemplate.Spec, field.NewPath("spec", "jobTemplate", "spec"))
			if c.Spec.Schedule == "" {
				errs = append(errs, field.Required(field.NewPath("spec", "schedule"), ""))
			}
			return errs
		}).
		Warned(unserved("CronJobs", workloadController)).
		Printed(func(c *batchv1.CronJob) []any {
			suspended := c.Spec.Suspend != nil && *c.Spec.Suspend
			last := "<none>"
			if c.Status.LastScheduleTime != nil {
				last = registry.Age(*c.Status.LastScheduleTime)
			}
			return []any{c.Spec.Schedule, strconv.FormatBool(suspended), strconv.Itoa(len(c.Status.Active)), last}
		}, registry.Column("Schedule", "When it runs."), registry.Column("Suspend", "Whether it is held back."), registry.Column("Active", "Jobs that run now."),
			registry.Column("Last Schedule", "When it ran last."))
	k.All = true
	return k
}

func autoscalerKind() registry.Kind[*autoscalingv2.HorizontalPodAutoscaler] {
	k := registry.Stored[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList](
		autoscalingv2.SchemeGroupVersion, "horizontalpodautoscalers", "horizontalpodautoscaler", registry.InNamespace, "hpa").
		Checked(validateAutoscaler).
		Warned(unserved("HorizontalPodAutoscalers", workloadController)).
		Printed(func(h *autoscalingv2.HorizontalPodAutoscaler) []any {
			target := h.Spec.ScaleTargetRef
			return []any{target.Kind + "/" + target.Name, count(number(h.Spec.MinReplicas)), count(h.Spec.MaxReplicas), count(h.Status.CurrentReplicas)}
		}, registry.Column("Reference", "What is scaled."), registry.Column("MinPods", "The fewest pods."), registry.Column("MaxPods", "The most."), registry.Column("Replicas", "How many there are."))
	k.All = true
	return k
}

func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var errs field.ErrorList
	spec, least := field.NewPath("spec"), number(h.Spec.MinReplicas)
	for name, value := range map[string]string{"kind": h.Spec.ScaleTargetRef.Kind, "name": h.Spec.ScaleTargetRef.Name} {
		if value == "" {
			errs = append(errs, field.Required(spec.Child("scaleTargetRef", name), ""))
		}
	}
	if least < 0 {
		errs = append(errs, field.Invalid(spec.Child("minReplicas"), least, "must be greater than or equal to 0"))
	}
	if h.Spec.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(spec.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than 0"))
	}
	if h.Spec.MaxReplicas < least {
		errs = append(errs, field.Invalid(spec.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	return errs
}

// validateWorkload checks what controllers of pods trust: that a selector selects
// something, and its own template's pods. Otherwise they would make pods for ever.
func validateWorkload(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, replicas *int32) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if replicas != nil && *replicas < 0 {
		errs = append(errs, field.Invalid(path.Child("replicas"), *replicas, "must be greater than or equal to 0"))
	}
	if selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), selector, "empty selector is invalid: it would select every pod"))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
		if matches, err := metav1.LabelSelectorAsSelector(selector); err == nil && !matches.Matches(labels.Set(template.Labels)) {
			errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), template.Labels, "`selector` does not match template `labels`"))
		}
	}
	return append(errs, validateTemplate(template, path.Child("template"), corev1.RestartPolicyAlways)...)
}

func validateTemplate(template *corev1.PodTemplateSpec, path *field.Path, restart ...corev1.RestartPolicy) field.ErrorList {
	var errs field.ErrorList
	if len(template.Spec.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("spec", "containers"), ""))
	}
	for _, policy := range restart {
		if template.Spec.RestartPolicy == policy {
			return errs
		}
	}
	return append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy, restart))
}

func validateJob(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	errs := validateTemplate(&spec.Template, path.Child("template"), corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	for name, value := range map[string]*int32{"parallelism": spec.Parallelism, "completions": spec.Completions, "backoffLimit": spec.BackoffLimit} {
		if value != nil && *value < 0 {
			errs = append(errs, field.Invalid(path.Child(name), *value, "must be greater than or equal to 0"))
		}
	}
	return errs
}

func sameSelector(selector, old *metav1.LabelSelector) field.ErrorList {
	return validation.ValidateImmutableField(selector, old, field.NewPath("spec", "selector"))
}

// scaled is what the scale subresource shows of a workload.
type scaled struct {
	wanted   **int32
	present  int32
	selector *metav1.LabelSelector
}

func scalable[T runtime.Object](k registry.Kind[T], of func(T) scaled) buildFunc {
	return func(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
		main, _, err := registry.Add(s, scheme, options, k)
		if err != nil {
			return err
		}
		s.Put(k.GroupVersion, k.Plural+"/scale", &scaleStorage[T]{main, of})
		return nil
	}
}

func number(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func count(n int32) string { return strconv.Itoa(int(n)) }

func selectorText(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }
