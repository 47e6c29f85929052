package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// orElse points to value where nothing was said.
func orElse[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func orText[T ~string](s *T, value T) {
	if *s == "" {
		*s = value
	}
}

// addClusterDefaults fills what foreign controllers follow pointers to.
func addClusterDefaults(s *runtime.Scheme) {
	setDefaults(s, defaultDeployment, func(l *appsv1.DeploymentList) []appsv1.Deployment { return l.Items })
	setDefaults(s, defaultReplicaSet, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items })
	setDefaults(s, defaultStatefulSet, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items })
	setDefaults(s, defaultDaemonSet, func(l *appsv1.DaemonSetList) []appsv1.DaemonSet { return l.Items })
	setDefaults(s, defaultReplicationController, func(l *corev1.ReplicationControllerList) []corev1.ReplicationController { return l.Items })
	setDefaults(s, func(j *batchv1.Job) { defaultJob(&j.Spec, &j.ObjectMeta) }, func(l *batchv1.JobList) []batchv1.Job { return l.Items })
	setDefaults(s, defaultCronJob, func(l *batchv1.CronJobList) []batchv1.CronJob { return l.Items })
	setDefaults(s, defaultAutoscaler, func(l *autoscalingv2.HorizontalPodAutoscalerList) []autoscalingv2.HorizontalPodAutoscaler {
		return l.Items
	})
	setDefaults(s, defaultVolume, func(l *corev1.PersistentVolumeList) []corev1.PersistentVolume { return l.Items })
	setDefaults(s, func(c *corev1.PersistentVolumeClaim) { defaultClaimSpec(&c.Spec) },
		func(l *corev1.PersistentVolumeClaimList) []corev1.PersistentVolumeClaim { return l.Items })
	setDefaults(s, func(c *storagev1.StorageClass) {
		orElse(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		orElse(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	}, func(l *storagev1.StorageClassList) []storagev1.StorageClass { return l.Items })
	setDefaults(s, defaultDriver, func(l *storagev1.CSIDriverList) []storagev1.CSIDriver { return l.Items })
	setDefaults(s, func(p *schedulingv1.PriorityClass) { orElse(&p.PreemptionPolicy, corev1.PreemptLowerPriority) },
		func(l *schedulingv1.PriorityClassList) []schedulingv1.PriorityClass { return l.Items })
	setDefaults(s, defaultLimitRange, func(l *corev1.LimitRangeList) []corev1.LimitRange { return l.Items })
}

// defaultTemplate fills a template as its pod would be.
func defaultTemplate(t *corev1.PodTemplateSpec) {
	pod := corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	defaultPod(&pod)
	t.Spec = pod.Spec
}

func defaultDeployment(d *appsv1.Deployment) {
	defaultTemplate(&d.Spec.Template)
	orElse(&d.Spec.Replicas, 1)
	orText(&d.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		orElse(&d.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		orElse(&d.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		orElse(&d.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	orElse(&d.Spec.RevisionHistoryLimit, 10)
	orElse(&d.Spec.ProgressDeadlineSeconds, 600)
}

func defaultReplicaSet(r *appsv1.ReplicaSet) {
	defaultTemplate(&r.Spec.Template)
	orElse(&r.Spec.Replicas, 1)
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	defaultTemplate(&s.Spec.Template)
	orElse(&s.Spec.Replicas, 1)
	orElse(&s.Spec.RevisionHistoryLimit, 10)
	orText(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	orText(&s.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		orElse(&s.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		orElse(&s.Spec.UpdateStrategy.RollingUpdate.Partition, 0)
	}
	orElse(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	orText(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	orText(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	for i := range s.Spec.VolumeClaimTemplates {
		defaultClaimSpec(&s.Spec.VolumeClaimTemplates[i].Spec)
	}
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	defaultTemplate(&d.Spec.Template)
	orElse(&d.Spec.RevisionHistoryLimit, 10)
	orText(&d.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if d.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		orElse(&d.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		orElse(&d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		orElse(&d.Spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

// defaultReplicationController takes labels and selector from the template, as this
// oldest of the kinds always did.
func defaultReplicationController(r *corev1.ReplicationController) {
	orElse(&r.Spec.Replicas, 1)
	if r.Spec.Template == nil {
		return
	}
	defaultTemplate(r.Spec.Template)
	if len(r.Spec.Selector) == 0 {
		r.Spec.Selector = r.Spec.Template.Labels
	}
	if len(r.Labels) == 0 {
		r.Labels = r.Spec.Template.Labels
	}
}

// defaultAutoscaler aims at 80 % of the requested processor time where nothing is said.
func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	orElse(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) > 0 {
		return
	}
	percent := int32(80)
	h.Spec.Metrics = []autoscalingv2.MetricSpec{{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		},
	}}
}

func defaultJob(spec *batchv1.JobSpec, m *metav1.ObjectMeta) {
	defaultTemplate(&spec.Template)
	if spec.Completions == nil && spec.Parallelism == nil {
		orElse(&spec.Completions, 1)
	}
	orElse(&spec.Parallelism, 1)
	if spec.BackoffLimitPerIndex == nil {
		orElse(&spec.BackoffLimit, 6)
	} else {
		orElse(&spec.BackoffLimit, 1<<31-1)
	}
	orElse(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	orElse(&spec.Suspend, false)
	orElse(&spec.ManualSelector, false)
	if spec.PodFailurePolicy != nil {
		orElse(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	orElse(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	if m != nil && len(m.Labels) == 0 && len(spec.Template.Labels) > 0 {
		m.Labels = spec.Template.Labels
	}
}

// selectJobsPods gives a new Job a selector of its own and its template the labels for
// it, by the Job's UID; unless the author chose both.
func selectJobsPods(j *batchv1.Job) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	uid, name := string(j.UID), j.Name
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = map[string]string{}
	}
	for key, value := range map[string]string{
		"controller-uid": uid, "job-name": name, batchv1.ControllerUidLabel: uid, batchv1.JobNameLabel: name,
	} {
		j.Spec.Template.Labels[key] = value
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: uid}}
	}
}

func jobFields(j *batchv1.Job) fields.Set {
	return fields.Set{"status.successful": count(j.Status.Succeeded)}
}

func defaultCronJob(c *batchv1.CronJob) {
	defaultJob(&c.Spec.JobTemplate.Spec, nil)
	orText(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	orElse(&c.Spec.Suspend, false)
	orElse(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	orElse(&c.Spec.FailedJobsHistoryLimit, 1)
}

func defaultVolume(v *corev1.PersistentVolume) {
	orText(&v.Status.Phase, corev1.VolumePending)
	orText(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	orElse(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
}

func defaultClaimSpec(c *corev1.PersistentVolumeClaimSpec) {
	orElse(&c.VolumeMode, corev1.PersistentVolumeFilesystem)
}

func defaultDriver(d *storagev1.CSIDriver) {
	orElse(&d.Spec.AttachRequired, true)
	orElse(&d.Spec.PodInfoOnMount, false)
	orElse(&d.Spec.StorageCapacity, false)
	orElse(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	orElse(&d.Spec.RequiresRepublish, false)
	orElse(&d.Spec.SELinuxMount, false)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

// defaultLimitRange takes defaults of containers from their limits.
func defaultLimitRange(r *corev1.LimitRange) {
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		item.Default = filled(item.Default, item.Max)
		item.DefaultRequest = filled(item.DefaultRequest, item.Default)
		item.DefaultRequest = filled(item.DefaultRequest, item.Min)
	}
}

func filled(list, from corev1.ResourceList) corev1.ResourceList {
	for name, quantity := range from {
		if list == nil {
			list = corev1.ResourceList{}
		}
		if _, ok := list[name]; !ok {
			list[name] = quantity.DeepCopy()
		}
	}
	return list
}

func resourceSliceFields(s *resourcev1.ResourceSlice) fields.Set {
	node := ""
	if s.Spec.NodeName != nil {
		node = *s.Spec.NodeName
	}
	return fields.Set{"spec.nodeName": node, "spec.driver": s.Spec.Driver}
}
