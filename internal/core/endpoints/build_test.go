package endpoints

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// service is a dual-stack Service "web" with one named target port.
func service(edit ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc-uid", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeClusterIP,
			ClusterIP:  "10.96.0.20",
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			Selector:   map[string]string{"app": "web"},
			Ports:      []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
		},
	}
	for _, e := range edit {
		e(svc)
	}
	return svc
}

// pod is a ready dual-stack pod that answers "http" on 8080.
func pod(n int, edit ...func(*corev1.Pod)) *corev1.Pod {
	name := fmt.Sprintf("pod-%03d", n)
	v4, v6 := fmt.Sprintf("10.244.%d.%d", n/250, n%250+1), fmt.Sprintf("fd00:10:244::%x", n+1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			NodeName:   "node-a",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}},
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIP:      v4,
			PodIPs:     []corev1.PodIP{{IP: v4}, {IP: v6}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, e := range edit {
		e(p)
	}
	return p
}

func podsUpTo(n int) []*corev1.Pod {
	var out []*corev1.Pod
	for i := range n {
		out = append(out, pod(i))
	}
	return out
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func deleting(p *corev1.Pod) {
	t := metav1.NewTime(time.Unix(1000, 0))
	p.DeletionTimestamp = &t
}

func single(svc *corev1.Service) { svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1] }

// apply does to the slices what a server would do with the plan.
func apply(existing []*discoveryv1.EndpointSlice, p Plan) []*discoveryv1.EndpointSlice {
	byName := map[string]*discoveryv1.EndpointSlice{}
	for _, s := range existing {
		byName[s.Name] = s
	}
	for _, s := range p.Create {
		if byName[s.Name] != nil {
			panic("name is taken: " + s.Name)
		}
		byName[s.Name] = s
	}
	for _, s := range p.Update {
		byName[s.Name] = s
	}
	for _, s := range p.Delete {
		delete(byName, s.Name)
	}
	var out []*discoveryv1.EndpointSlice
	for _, s := range byName {
		out = append(out, s)
	}
	return out
}

// text prints a slice without its name, so that two histories can be compared.
func text(s *discoveryv1.EndpointSlice) string {
	out := fmt.Sprintf("%s %s %v %v", s.AddressType, portsKey(s.Ports), s.Labels, s.OwnerReferences[0].UID)
	for _, e := range s.Endpoints {
		out += "\n  " + endpointText(&e)
	}
	return out
}

func endpointText(e *discoveryv1.Endpoint) string {
	str := func(p *string) string {
		if p == nil {
			return "-"
		}
		return *p
	}
	flag := func(name string, b *bool) string {
		if b != nil && *b {
			return " " + name
		}
		return ""
	}
	out := fmt.Sprintf("%s node=%s zone=%s hostname=%s", e.Addresses[0], str(e.NodeName), str(e.Zone), str(e.Hostname))
	out += flag("ready", e.Conditions.Ready) + flag("serving", e.Conditions.Serving) + flag("terminating", e.Conditions.Terminating)
	if e.Hints != nil {
		for _, n := range e.Hints.ForNodes {
			out += " for-node=" + n.Name
		}
		for _, z := range e.Hints.ForZones {
			out += " for-zone=" + z.Name
		}
	}
	return out
}
