//lint:file-ignore SA1019 Endpoints are deprecated and still served (EP-04).

package kinds

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/core/service"
)

// podGracePeriod is how long a pod may take to stop when it says nothing (KEP-0).
const podGracePeriod = 30

// addDefaults registers the static defaults of each kind: what depends on nothing
// but the object. They run when an object is decoded.
func addDefaults(s *runtime.Scheme) {
	setDefaults(s, service.SetDefaults, func(l *corev1.ServiceList) []corev1.Service { return l.Items })
	setDefaults(s, defaultPod, func(l *corev1.PodList) []corev1.Pod { return l.Items })
	setDefaults(s, defaultNamespace, func(l *corev1.NamespaceList) []corev1.Namespace { return l.Items })
	setDefaults(s, defaultSecret, func(l *corev1.SecretList) []corev1.Secret { return l.Items })
	setDefaults(s, defaultEndpoints, func(l *corev1.EndpointsList) []corev1.Endpoints { return l.Items })
	setDefaults(s, defaultSlice, func(l *discoveryv1.EndpointSliceList) []discoveryv1.EndpointSlice { return l.Items })
	addNetworkingDefaults(s)
	setDefaults(s, machine.SetDefaults, func(l *kubevirtv1.VirtualMachineList) []kubevirtv1.VirtualMachine { return l.Items })
	setDefaults(s, machine.SetInstanceDefaults, func(l *kubevirtv1.VirtualMachineInstanceList) []kubevirtv1.VirtualMachineInstance {
		return l.Items
	})
}

// setDefaults registers the defaults of a type and of its list.
func setDefaults[T, L any](s *runtime.Scheme, set func(*T), items func(*L) []T) {
	s.AddTypeDefaultingFunc(any(new(T)).(runtime.Object), func(obj any) { set(obj.(*T)) })
	s.AddTypeDefaultingFunc(any(new(L)).(runtime.Object), func(obj any) {
		list := items(obj.(*L))
		for i := range list {
			set(&list[i])
		}
	})
}

func defaultPod(p *corev1.Pod) {
	spec := &p.Spec
	if spec.RestartPolicy == "" {
		spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if spec.DNSPolicy == "" {
		spec.DNSPolicy = corev1.DNSClusterFirst
	}
	if spec.SchedulerName == "" {
		spec.SchedulerName = corev1.DefaultSchedulerName
	}
	if spec.TerminationGracePeriodSeconds == nil {
		period := int64(podGracePeriod)
		spec.TerminationGracePeriodSeconds = &period
	}
	if spec.EnableServiceLinks == nil {
		links := corev1.DefaultEnableServiceLinks
		spec.EnableServiceLinks = &links
	}
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		if c.ImagePullPolicy == "" {
			c.ImagePullPolicy = corev1.PullIfNotPresent
		}
		if c.TerminationMessagePath == "" {
			c.TerminationMessagePath = corev1.TerminationMessagePathDefault
		}
		if c.TerminationMessagePolicy == "" {
			c.TerminationMessagePolicy = corev1.TerminationMessageReadFile
		}
		for j := range c.Ports {
			if c.Ports[j].Protocol == "" {
				c.Ports[j].Protocol = corev1.ProtocolTCP
			}
		}
	}
}

// defaultNamespace sets the label that selectors of namespaces rely on (KEP-2161).
func defaultNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if e.Subsets[i].Ports[j].Protocol == "" {
				e.Subsets[i].Ports[j].Protocol = corev1.ProtocolTCP
			}
		}
	}
}

func defaultSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		if s.Ports[i].Name == nil {
			s.Ports[i].Name = new(string)
		}
		if s.Ports[i].Protocol == nil {
			tcp := corev1.ProtocolTCP
			s.Ports[i].Protocol = &tcp
		}
	}
}
