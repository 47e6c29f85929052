//lint:file-ignore SA1019 Endpoints is deprecated, and served and kept all the same (EP-04).

package endpoints

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func v1Text(e *corev1.Endpoints) string {
	var b strings.Builder
	list := func(what string, as []corev1.EndpointAddress) {
		if len(as) > 0 {
			b.WriteString(" " + what)
		}
		for _, a := range as {
			b.WriteString(" " + a.IP)
			if a.Hostname != "" {
				b.WriteString("(" + a.Hostname + ")")
			}
		}
	}
	for _, s := range e.Subsets {
		for _, p := range s.Ports {
			fmt.Fprintf(&b, "%s:%d/%s", p.Name, p.Port, p.Protocol)
		}
		list("ready", s.Addresses)
		list("not-ready", s.NotReadyAddresses)
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// EP-01, EP-04: the older object.
func TestEndpointsV1(t *testing.T) {
	publish := func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }
	pods := []*corev1.Pod{
		pod(2), pod(1), pod(3, unready), pod(4, deleting),
		pod(5, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
	}
	for _, c := range []struct {
		name string
		svc  *corev1.Service
		pods []*corev1.Pod
		want string
	}{
		{"nothing matches", service(), nil, ""},
		{"ready, not ready, terminating", service(), pods, "http:8080/TCP ready 10.244.0.2 10.244.0.3 not-ready 10.244.0.4"},
		{"publishNotReadyAddresses", service(publish), pods, "http:8080/TCP ready 10.244.0.2 10.244.0.3 10.244.0.4 10.244.0.5"},
		{"the primary family only", service(func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		}), pods[:2], "http:8080/TCP ready fd00:10:244::2 fd00:10:244::3"},
		{"one subset for each list of ports", service(), []*corev1.Pod{pod(0), pod(1, func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports[0].ContainerPort = 9090
		})}, "http:8080/TCP ready 10.244.0.1; http:9090/TCP ready 10.244.0.2"},
		{"a named port that the pod hasn't", service(), []*corev1.Pod{pod(0, func(p *corev1.Pod) { p.Spec.Containers = nil })}, ""},
		{"headless without ports", service(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }), []*corev1.Pod{pod(0, func(p *corev1.Pod) {
			p.Spec.Hostname, p.Spec.Subdomain = "db-0", "web"
		})}, " ready 10.244.0.1(db-0)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := v1Text(Endpoints(c.svc, c.pods)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// EP-04: more than 1,000 addresses are cut, with the annotation that says so.
func TestEndpointsV1Capacity(t *testing.T) {
	var pods []*corev1.Pod
	for i := range 1500 {
		switch {
		case i < 300:
			pods = append(pods, pod(i, unready))
		case i < 900:
			pods = append(pods, pod(i, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 }))
		default:
			pods = append(pods, pod(i))
		}
	}
	e := Endpoints(service(), pods)
	if e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Error("no over-capacity annotation")
	}
	if a, b := len(e.Subsets[0].Addresses), len(e.Subsets[1].Addresses); a != 500 || b != 500 || len(e.Subsets[0].NotReadyAddresses) != 0 {
		t.Errorf("kept %d and %d ready ones, %d others", a, b, len(e.Subsets[0].NotReadyAddresses))
	}
	e = Endpoints(service(), pods[:1100])
	if r, n := len(e.Subsets[0].Addresses)+len(e.Subsets[1].Addresses), len(e.Subsets[0].NotReadyAddresses); r != 800 || n != 200 {
		t.Errorf("kept %d ready and %d others, want 800 and 200", r, n)
	}
	lone := pod(5000, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 1 }, unready)
	if full := Endpoints(service(), append(pods[300:], lone)); len(full.Subsets) != 2 {
		t.Errorf("%d subsets, one of them empty", len(full.Subsets))
	}
	next, changed := UpdateEndpoints(e, Endpoints(service(), pods[:900]), time.Time{})
	if _, over := next.Annotations[corev1.EndpointsOverCapacity]; !changed || over {
		t.Error("the annotation stays when all fit again")
	}
}

func TestUpdateEndpoints(t *testing.T) {
	now := NewEndpoints(Endpoints(service(), podsUpTo(3)), time.Unix(1, 0))
	now.Annotations["somebody"] = "else"
	if _, changed := UpdateEndpoints(now, Endpoints(service(), podsUpTo(3)), time.Unix(2, 0)); changed {
		t.Error("written without a change")
	}
	next, changed := UpdateEndpoints(now, Endpoints(service(), podsUpTo(2)), time.Unix(2, 0))
	if !changed || next.Annotations["somebody"] != "else" || next.Annotations[corev1.EndpointsLastChangeTriggerTime] != "1970-01-01T00:00:02Z" {
		t.Errorf("annotations %v", next.Annotations)
	}
	if !ManagedEndpoints(next) {
		t.Error("the object isn't marked as ours")
	}
}

// EP-05: Endpoints written by hand appear as slices.
func TestMirror(t *testing.T) {
	svc := service(func(s *corev1.Service) { s.Spec.Selector = nil })
	node := "node-a"
	hand := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Ports:             []corev1.EndpointPort{{Name: "http", Port: 8080}},
		Addresses:         []corev1.EndpointAddress{{IP: "192.0.2.1", NodeName: &node}, {IP: "2001:db8::1"}},
		NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.2", Hostname: "b"}, {IP: "192.0.2.1", NodeName: &node}},
	}}}
	hand.Namespace, hand.Name, hand.UID = "ns", "web", "hand"
	hand.Labels = map[string]string{"l": "v"}
	p := Mirror(MirrorInput{Service: svc, Endpoints: hand})
	if len(p.Create) != 2 {
		t.Fatalf("made %d slices, want one per family", len(p.Create))
	}
	want := `IPv4 http/8080/TCP/ map[endpointslice.kubernetes.io/managed-by:endpointslicemirroring-controller.k8s.io kubernetes.io/service-name:web l:v] hand
  192.0.2.1 node=node-a zone=- hostname=- ready serving
  192.0.2.2 node=- zone=- hostname=b`
	if got := text(p.Create[0]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	made := apply(nil, p)
	if again := Mirror(MirrorInput{Service: svc, Endpoints: hand, Existing: made}); !again.Empty() {
		t.Error("the plan doesn't settle")
	}
	skip := hand.DeepCopy()
	skip.Labels[discoveryv1.LabelSkipMirror] = "true"
	if p := Mirror(MirrorInput{Service: svc, Endpoints: skip, Existing: made}); len(p.Delete) != 2 {
		t.Error("skip-mirror leaves the mirror")
	}
	// A Service that loses its selector: its slices are taken over, not doubled.
	before := apply(nil, Slices(Input{Service: service(single), Pods: podsUpTo(1)}))
	left := Endpoints(service(single), podsUpTo(1))
	if p := Mirror(MirrorInput{Service: svc, Endpoints: left, Existing: before}); len(p.Create)+len(p.Delete) != 0 || len(p.Update) != 1 {
		t.Errorf("selector lost: %+v", p)
	}
	if p := Mirror(MirrorInput{Service: svc, Existing: before}); !p.Empty() {
		t.Error("without Endpoints, slices that aren't mirrors are touched")
	}
}

// EP-06: which labels came closest.
func TestNoMatchCondition(t *testing.T) {
	labelled := func(n int, kv ...string) *corev1.Pod {
		return pod(n, func(p *corev1.Pod) {
			p.Labels = map[string]string{}
			for i := 0; i < len(kv); i += 2 {
				p.Labels[kv[i]] = kv[i+1]
			}
		})
	}
	two := service(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web", "tier": "front"} })
	for _, c := range []struct {
		name string
		svc  *corev1.Service
		pods []*corev1.Pod
		want string // "": no condition
	}{
		{"matches", service(), []*corev1.Pod{labelled(1), pod(2)}, ""},
		{"no selector", service(func(s *corev1.Service) { s.Spec.Selector = nil }), nil, ""},
		{"no pods", service(), nil, "the selector app=web matches no pod: namespace ns has no running pod"},
		{"nothing alike", service(), []*corev1.Pod{labelled(1, "x", "y")}, "the selector app=web matches no pod: no pod of namespace ns has any of these labels"},
		{"other value", service(), []*corev1.Pod{labelled(3, "app", "wep"), labelled(1, "x", "y")}, "the selector app=web matches no pod; closest is pod pod-003, which has app=wep instead of web"},
		{
			"one of two", two,
			[]*corev1.Pod{labelled(4, "app", "web"), labelled(1, "app", "x", "tier", "y"), labelled(2, "app", "web")},
			"the selector app=web,tier=front matches no pod; closest is pod pod-002 (and 1 more like it), which has app=web, but no label tier",
		},
		{"two wrong", two, []*corev1.Pod{labelled(1, "app", "x", "tier", "y")}, "the selector app=web,tier=front matches no pod; closest is pod pod-001, which has app=x instead of web and tier=y instead of front"},
		{
			"ended pods don't count", service(),
			[]*corev1.Pod{pod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })},
			"the selector app=web matches no pod: namespace ns has no running pod",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if cond := NoMatchCondition(c.svc, c.pods); cond != nil {
				got = cond.Message
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestPodChanged(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*corev1.Pod)
		want bool
	}{
		{"nothing", func(*corev1.Pod) {}, false},
		{"annotation", func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }, false},
		{"other condition", func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled})
		}, false},
		{"readiness", unready, true},
		{"deletion", deleting, true},
		{"label", func(p *corev1.Pod) { p.Labels["x"] = "y" }, true},
		{"address", func(p *corev1.Pod) { p.Status.PodIPs = p.Status.PodIPs[:1] }, true},
		{"ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, true},
		{"node", func(p *corev1.Pod) { p.Spec.NodeName = "b" }, true},
	} {
		if got := PodChanged(pod(1), pod(1, c.edit)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSelects(t *testing.T) {
	if !Selects(service(), pod(1)) {
		t.Error("matching labels")
	}
	if Selects(service(func(s *corev1.Service) { s.Namespace = "other" }), pod(1)) {
		t.Error("another namespace")
	}
	if Selects(service(func(s *corev1.Service) { s.Spec.Selector = nil }), pod(1)) {
		t.Error("an empty selector selects nothing here")
	}
	if Selects(service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), pod(1)) {
		t.Error("ExternalName")
	}
}
