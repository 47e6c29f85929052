package endpoints

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func zones(node string) string { return map[string]string{"node-a": "z1", "node-b": "z2"}[node] }

// EP-01, EP-03: what one pod's endpoint says.
func TestEndpointOfPod(t *testing.T) {
	notReadyToo := func(svc *corev1.Service) { svc.Spec.PublishNotReadyAddresses = true }
	distribution := func(d string) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Spec.TrafficDistribution = &d }
	}
	for _, c := range []struct {
		name string
		svc  *corev1.Service
		pod  *corev1.Pod
		want string // of the IPv4 slice; "": the pod isn't listed
	}{
		{"ready", service(), pod(1), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving"},
		{"not ready", service(), pod(1, unready), "10.244.0.2 node=node-a zone=z1 hostname=-"},
		{"no Ready condition yet", service(), pod(1, func(p *corev1.Pod) { p.Status.Conditions = nil }), "10.244.0.2 node=node-a zone=z1 hostname=-"},
		{"terminating and still serving", service(), pod(1, deleting), "10.244.0.2 node=node-a zone=z1 hostname=- serving terminating"},
		{"terminating, not serving", service(), pod(1, deleting, unready), "10.244.0.2 node=node-a zone=z1 hostname=- terminating"},
		{"published although not ready", service(notReadyToo), pod(1, unready), "10.244.0.2 node=node-a zone=z1 hostname=- ready"},
		{"published although terminating", service(notReadyToo), pod(1, deleting), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving terminating"},
		{"succeeded", service(), pod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), ""},
		{"failed", service(notReadyToo), pod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), ""},
		{"no address yet", service(), pod(1, func(p *corev1.Pod) { p.Status.PodIPs, p.Status.PodIP = nil, "" }), ""},
		{"only podIP", service(), pod(1, func(p *corev1.Pod) { p.Status.PodIPs = nil }), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving"},
		{"not of this family", service(), pod(1, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "fd00::1", []corev1.PodIP{{IP: "fd00::1"}} }), ""},
		{"unscheduled", service(), pod(1, func(p *corev1.Pod) { p.Spec.NodeName = "" }), "10.244.0.2 node=- zone=- hostname=- ready serving"},
		{"unknown node", service(), pod(1, func(p *corev1.Pod) { p.Spec.NodeName = "gone" }), "10.244.0.2 node=gone zone=- hostname=- ready serving"},
		{"hostname in the Service's subdomain", service(), pod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-0", "web" }), "10.244.0.2 node=node-a zone=z1 hostname=db-0 ready serving"},
		{"hostname in another subdomain", service(), pod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-0", "other" }), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving"},
		{"same zone", service(distribution("PreferSameZone")), pod(1), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving for-zone=z1"},
		{"close", service(distribution("PreferClose")), pod(1), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving for-zone=z1"},
		{"same node", service(distribution("PreferSameNode")), pod(1), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving for-node=node-a for-zone=z1"},
		{"no hints unless ready", service(distribution("PreferSameZone")), pod(1, unready), "10.244.0.2 node=node-a zone=z1 hostname=-"},
		{"Auto beats the field", service(distribution("PreferSameZone"), func(s *corev1.Service) {
			s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"}
		}), pod(1), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving"},
		{"the older annotation beats both", service(distribution("PreferSameZone"), func(s *corev1.Service) {
			s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "auto", corev1.DeprecatedAnnotationTopologyAwareHints: "Disabled"}
		}), pod(1), "10.244.0.2 node=node-a zone=z1 hostname=- ready serving for-zone=z1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Slices(Input{Service: c.svc, Pods: []*corev1.Pod{c.pod}, Zone: zones})
			got := ""
			for _, s := range p.Create {
				if s.AddressType == discoveryv1.AddressTypeIPv4 && len(s.Endpoints) > 0 {
					got += endpointText(&s.Endpoints[0])
				}
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// EP-02, EP-03, EP-07: what a slice says besides its endpoints.
func TestSliceFrame(t *testing.T) {
	trigger := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	svc := service(func(s *corev1.Service) { s.Labels[corev1.IsHeadlessService] = "forged" })
	p := Slices(Input{Service: svc, Pods: podsUpTo(1), Trigger: trigger})
	if len(p.Create) != 2 {
		t.Fatalf("got %d slices, want one per family", len(p.Create))
	}
	s := p.Create[0]
	if s.AddressType != discoveryv1.AddressTypeIPv4 || p.Create[1].AddressType != discoveryv1.AddressTypeIPv6 {
		t.Errorf("families %s, %s", s.AddressType, p.Create[1].AddressType)
	}
	if !strings.HasPrefix(s.Name, "web-") || len(s.Name) != len("web-")+5 || s.GenerateName != "" {
		t.Errorf("name %q", s.Name)
	}
	want := map[string]string{
		"team": "a", "kubernetes.io/service-name": "web",
		"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
	}
	for k, v := range want {
		if s.Labels[k] != v {
			t.Errorf("label %s is %q, want %q", k, s.Labels[k], v)
		}
	}
	if len(s.Labels) != len(want) {
		t.Errorf("labels %v", s.Labels)
	}
	if o := s.OwnerReferences; len(o) != 1 || o[0].Kind != "Service" || o[0].UID != "svc-uid" || !*o[0].Controller {
		t.Errorf("owner %v", o)
	}
	if got := s.Annotations[corev1.EndpointsLastChangeTriggerTime]; got != "2026-01-02T03:04:05.0000006Z" {
		t.Errorf("trigger %q", got)
	}
	if s.TypeMeta.Kind != "" || s.ResourceVersion != "" {
		t.Error("a new slice carries server-side fields")
	}
	none := service(func(s *corev1.Service) { s.Spec.ClusterIP = "None" })
	if _, ok := Slices(Input{Service: none}).Create[0].Labels[corev1.IsHeadlessService]; !ok {
		t.Error("a headless Service's slice lacks its label")
	}
}

// EP-02: each pod may answer a named port on a number of its own.
func TestNamedPorts(t *testing.T) {
	number := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
	}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: p.Spec.Containers[0].Ports}}
		p.Spec.Containers = []corev1.Container{{}}
	}
	other := func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = corev1.ProtocolUDP }
	p := Slices(Input{Service: service(single), Pods: []*corev1.Pod{
		pod(0), pod(1, number(9090)), pod(2), pod(3, sidecar), pod(4, other),
	}})
	var got []string
	for _, s := range p.Create {
		line := portsKey(s.Ports) + ":"
		for _, e := range s.Endpoints {
			line += " " + e.TargetRef.Name
		}
		got = append(got, line)
	}
	want := []string{": pod-004", "http/8080/TCP/: pod-000 pod-002 pod-003", "http/9090/TCP/: pod-001"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestNumberedPorts(t *testing.T) {
	app := "kubernetes.io/h2c"
	svc := service(single, func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{
			{Name: "a", Port: 80, TargetPort: intstr.FromInt32(9376), AppProtocol: &app},
			{Name: "b", Port: 53, Protocol: corev1.ProtocolUDP},
		}
	})
	p := Slices(Input{Service: svc, Pods: podsUpTo(1)})
	if got := portsKey(p.Create[0].Ports); got != "a/9376/TCP/kubernetes.io/h2c,b/53/UDP/" {
		t.Errorf("ports %s", got)
	}
}

// EP-02: at most 100 in a slice, and a change touches few of them.
func TestPacking(t *testing.T) {
	svc := service(single)
	pods := podsUpTo(250)
	first := Slices(Input{Service: svc, Pods: pods})
	if len(first.Create) != 3 || len(first.Create[0].Endpoints) != 100 || len(first.Create[2].Endpoints) != 50 {
		t.Fatalf("250 pods made %d slices", len(first.Create))
	}
	existing := apply(nil, first)
	replan := func(pods []*corev1.Pod, existing []*discoveryv1.EndpointSlice) Plan {
		return Slices(Input{Service: svc, Pods: pods, Existing: existing})
	}
	if p := replan(pods, existing); !p.Empty() {
		t.Errorf("nothing changed, but %d are written", len(p.Update))
	}
	for _, c := range []struct {
		name                   string
		pods                   []*corev1.Pod
		create, update, delete int
	}{
		{"one more", podsUpTo(251), 0, 1, 0},
		{"one less", pods[:249], 0, 1, 0},
		{"one not ready", append([]*corev1.Pod{pod(0, unready)}, pods[1:]...), 0, 1, 0},
		{"one replaced", append([]*corev1.Pod{pod(999)}, pods[1:]...), 0, 1, 0},
		{"60 more", podsUpTo(310), 1, 0, 0},
		{"a third gone", pods[:166], 0, 2, 1},
		{"nearly two slices full: keep the third", pods[:195], 0, 1, 0},
		{"all gone", nil, 0, 1, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := replan(c.pods, existing)
			if len(p.Create) != c.create || len(p.Update) != c.update || len(p.Delete) != c.delete {
				t.Errorf("created %d, updated %d, deleted %d; want %d, %d, %d",
					len(p.Create), len(p.Update), len(p.Delete), c.create, c.update, c.delete)
			}
			if again := replan(c.pods, apply(existing, p)); !again.Empty() {
				t.Error("the plan doesn't settle")
			}
		})
	}
}

// Changed ports rewrite a slice in place: no moment without, none with both.
func TestChangedPortsKeepTheSlice(t *testing.T) {
	existing := apply(nil, Slices(Input{Service: service(single), Pods: podsUpTo(3)}))
	svc := service(single, func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(9999) })
	p := Slices(Input{Service: svc, Pods: podsUpTo(3), Existing: existing})
	if len(p.Create) != 0 || len(p.Delete) != 0 || len(p.Update) != 1 || *p.Update[0].Ports[0].Port != 9999 {
		t.Errorf("plan %+v", p)
	}
}

func TestForeignOrStrange(t *testing.T) {
	svc := service(single)
	existing := apply(nil, Slices(Input{Service: svc, Pods: podsUpTo(1)}))

	// The same Service made anew: its predecessor's slices are taken over.
	anew := service(single, func(s *corev1.Service) { s.UID = "second" })
	if p := Slices(Input{Service: anew, Pods: podsUpTo(1), Existing: existing}); len(p.Update) != 1 || p.Update[0].OwnerReferences[0].UID != "second" || len(p.Create) != 0 {
		t.Errorf("a new Service of the same name: %+v", p)
	}
	// A slice being deleted can't be counted on, and its name isn't free.
	gone := existing[0].DeepCopy()
	deletion := pod(0, deleting).DeletionTimestamp
	gone.DeletionTimestamp = deletion
	if p := Slices(Input{Service: svc, Pods: podsUpTo(1), Existing: []*discoveryv1.EndpointSlice{gone}}); len(p.Create) != 1 || p.Create[0].Name == gone.Name || len(p.Update)+len(p.Delete) != 0 {
		t.Errorf("beside a slice that is being deleted: %+v", p)
	}
	// Two controllers wrote the same endpoint twice: one goes.
	twin := existing[0].DeepCopy()
	twin.Name = "web-twins"
	if p := Slices(Input{Service: svc, Pods: podsUpTo(1), Existing: append(existing, twin)}); len(p.Delete) != 1 || len(p.Create)+len(p.Update) != 0 {
		t.Errorf("a duplicate: %+v", p)
	}
	// A name that somebody else uses is passed over; the choice is repeatable.
	taken := Slices(Input{Service: svc}).Create[0].Name
	again := Slices(Input{Service: svc, Taken: func(n string) bool { return n == taken }}).Create[0].Name
	if again == taken || again != Slices(Input{Service: svc, Taken: func(n string) bool { return n == taken }}).Create[0].Name {
		t.Errorf("names %s, %s", taken, again)
	}
	// ExternalName has no endpoints.
	name := service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName })
	if p := Slices(Input{Service: name, Existing: existing}); len(p.Delete) != 1 || len(p.Create)+len(p.Update) != 0 {
		t.Errorf("ExternalName: %+v", p)
	}
	// Hints of a reader, ports in another order and a target's version are no change.
	touched := existing[0].DeepCopy()
	touched.Annotations = map[string]string{"somebody": "else"}
	touched.Endpoints[0].TargetRef.ResourceVersion = "77"
	if p := Slices(Input{Service: svc, Pods: podsUpTo(1), Existing: []*discoveryv1.EndpointSlice{touched}}); !p.Empty() {
		t.Errorf("rewritten needlessly: %+v", p)
	}
}
