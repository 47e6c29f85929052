package machine

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	// ComputeContainer is the pod's only container; KubeVirt's clients know the name.
	ComputeContainer = "compute"
	// ComputeImage stands where a pod must name an image. The guest runs in the
	// node's own QEMU, and the name says so; nothing is pulled.
	ComputeImage = "portico.dev/host-qemu"
	// LauncherLabelValue is the value of the label kubevirt.io of all such pods.
	LauncherLabelValue = "virt-launcher"
)

// memoryOverhead is what QEMU needs besides the guest's memory: its own code and
// buffers, and under emulation the translated code (tb-size=128 caps it). A guest
// with 128 MB was seen to take 210 to 240 MB in all.
var memoryOverhead = resource.MustParse("128Mi")

// podLabels are the labels that a pod has of its own, whatever its instance's are.
var podLabels = []string{
	kubevirtv1.AppLabel,
	kubevirtv1.CreatedByLabel,
	kubevirtv1.DeprecatedVirtualMachineNameLabel,
	kubevirtv1.VirtualMachineInstanceIDLabel,
}

// PodFor makes the pod that stands for the instance towards Services, the
// scheduler and the node. Its readiness gate makes a paused guest not ready.
func PodFor(vmi *kubevirtv1.VirtualMachineInstance) *corev1.Pod {
	labels := maps.Clone(vmi.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	hostName := HostName(vmi)
	labels[kubevirtv1.AppLabel] = LauncherLabelValue
	labels[kubevirtv1.CreatedByLabel] = string(vmi.UID)
	labels[kubevirtv1.DeprecatedVirtualMachineNameLabel] = hostName
	labels[kubevirtv1.VirtualMachineInstanceIDLabel] = instanceID(vmi.Name)

	annotations := map[string]string{kubevirtv1.DomainAnnotation: vmi.Name}
	copyClaims(annotations, vmi.Annotations)

	no := false
	grace := kubevirtv1.DefaultGracePeriodSeconds
	if g := vmi.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:            PodName(vmi),
			Namespace:       vmi.Namespace,
			Labels:          labels,
			Annotations:     annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(vmi, kubevirtv1.VirtualMachineInstanceGroupVersionKind)},
		},
		Spec: corev1.PodSpec{
			Hostname:                      hostName,
			Subdomain:                     vmi.Spec.Subdomain,
			NodeSelector:                  podNodeSelector(&vmi.Spec),
			Affinity:                      vmi.Spec.Affinity.DeepCopy(),
			Tolerations:                   vmi.Spec.Tolerations,
			SchedulerName:                 vmi.Spec.SchedulerName,
			ServiceAccountName:            vmi.Spec.ServiceAccountName,
			AutomountServiceAccountToken:  &no,
			RestartPolicy:                 corev1.RestartPolicyNever, // the run strategy restarts, with a new instance
			TerminationGracePeriodSeconds: &grace,
			ReadinessGates:                []corev1.PodReadinessGate{{ConditionType: kubevirtv1.VirtualMachineUnpaused}},
			Containers:                    []corev1.Container{computeContainer(&vmi.Spec)},
		},
	}
}

func computeContainer(spec *kubevirtv1.VirtualMachineInstanceSpec) corev1.Container {
	memory := GuestMemory(spec)
	if requested := spec.Domain.Resources.Requests.Memory(); !requested.IsZero() {
		memory = requested.DeepCopy() // less than the guest's memory overcommits the node, as its owner wants
	}
	memory.Add(memoryOverhead)
	requests := corev1.ResourceList{corev1.ResourceMemory: memory}
	if cpu := spec.Domain.Resources.Requests.Cpu(); !cpu.IsZero() {
		requests[corev1.ResourceCPU] = *cpu
	}
	return corev1.Container{
		Name:            ComputeContainer,
		Image:           ComputeImage,
		ImagePullPolicy: corev1.PullNever,
		Ports:           ContainerPorts(spec),
		Resources:       corev1.ResourceRequirements{Requests: requests},
		ReadinessProbe:  podProbe(spec.ReadinessProbe),
		LivenessProbe:   podProbe(spec.LivenessProbe),
	}
}

// podProbe translates a probe; the node sends it to the pod's address, which is
// the guest's. The types differ only in what is refused here.
func podProbe(p *kubevirtv1.Probe) *corev1.Probe {
	if p == nil {
		return nil
	}
	return &corev1.Probe{
		ProbeHandler:        corev1.ProbeHandler{HTTPGet: p.HTTPGet.DeepCopy(), TCPSocket: p.TCPSocket.DeepCopy()},
		InitialDelaySeconds: p.InitialDelaySeconds,
		TimeoutSeconds:      p.TimeoutSeconds,
		PeriodSeconds:       p.PeriodSeconds,
		SuccessThreshold:    p.SuccessThreshold,
		FailureThreshold:    p.FailureThreshold,
	}
}

func podNodeSelector(spec *kubevirtv1.VirtualMachineInstanceSpec) map[string]string {
	selector := maps.Clone(spec.NodeSelector)
	if spec.Architecture != "" {
		if selector == nil {
			selector = map[string]string{}
		}
		selector[corev1.LabelArchStable] = spec.Architecture
	}
	return selector
}

// InstanceOf names the instance that a pod was made for; ok is false for other pods.
func InstanceOf(pod *corev1.Pod) (name types.NamespacedName, uid types.UID, ok bool) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != kubevirtv1.VirtualMachineInstanceGroupVersionKind.Kind || owner.APIVersion != kubevirtv1.GroupVersion.String() {
		return types.NamespacedName{}, "", false
	}
	return types.NamespacedName{Namespace: pod.Namespace, Name: owner.Name}, owner.UID, true
}
