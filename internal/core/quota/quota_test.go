package quota

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func service(kind corev1.ServiceType, allocate *bool, nodePorts ...int32) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, AllocateLoadBalancerNodePorts: allocate}}
	for _, n := range nodePorts {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: n})
	}
	return s
}

// uses are amounts by short names: services, node ports, load balancers.
func uses(n, nodePorts, balancers int64) Amounts {
	out := Amounts{}
	for name, n := range map[corev1.ResourceName]int64{
		"services": n, "count/services": n, "services.nodeports": nodePorts, "services.loadbalancers": balancers,
	} {
		if n != 0 {
			out[name] = n
		}
	}
	return out
}

// API-13: what a Service of each type uses, and what each change of type adds.
func TestServices(t *testing.T) {
	types := map[string]struct {
		service *corev1.Service
		uses    Amounts
	}{
		"no type yet":                     {service("", nil, 0, 0), uses(1, 0, 0)},
		"ClusterIP":                       {service("ClusterIP", nil, 0, 0), uses(1, 0, 0)},
		"ClusterIP with a stale nodePort": {service("ClusterIP", nil, 30000), uses(1, 0, 0)},
		"ExternalName":                    {service("ExternalName", nil), uses(1, 0, 0)},
		"NodePort":                        {service("NodePort", nil, 0, 30001), uses(1, 2, 0)},
		"LoadBalancer":                    {service("LoadBalancer", nil, 0, 0), uses(1, 2, 1)},
		"LoadBalancer, allocate":          {service("LoadBalancer", new(true), 0, 0), uses(1, 2, 1)},
		"LoadBalancer without node ports": {service("LoadBalancer", new(false), 0, 0), uses(1, 0, 1)},
		"LoadBalancer, one by hand":       {service("LoadBalancer", new(false), 0, 30001), uses(1, 1, 1)},
	}
	gr := schema.GroupResource{Resource: "services"}
	for name, to := range types {
		if got := Of(gr, to.service); !maps.Equal(got, to.uses) {
			t.Errorf("%s uses %v, want %v", name, got, to.uses)
		}
		if got := Added(gr, to.service, nil); !maps.Equal(got, to.uses) {
			t.Errorf("to make %s adds %v, want %v", name, got, to.uses)
		}
		for old, from := range types {
			want := Amounts{}
			for what, n := range to.uses {
				if more := n - from.uses[what]; more > 0 {
					want[what] = more
				}
			}
			if got := Added(gr, to.service, from.service); !maps.Equal(got, want) {
				t.Errorf("%s -> %s adds %v, want %v", old, name, got, want)
			}
		}
	}
	if got, want := Added(gr, types["LoadBalancer"].service, types["ClusterIP"].service), uses(0, 2, 1); !maps.Equal(got, want) {
		t.Errorf("ClusterIP -> LoadBalancer adds %v, want %v", got, want)
	}
	if got := Added(gr, types["ClusterIP"].service, types["LoadBalancer"].service); len(got) > 0 {
		t.Errorf("LoadBalancer -> ClusterIP adds %v", got)
	}
}

// API-13: a pod that has ended holds no place among the pods, but lies in the store.
func TestPods(t *testing.T) {
	for phase, want := range map[corev1.PodPhase]Amounts{
		"":                  {"pods": 1, "count/pods": 1},
		corev1.PodPending:   {"pods": 1, "count/pods": 1},
		corev1.PodRunning:   {"pods": 1, "count/pods": 1},
		corev1.PodSucceeded: {"count/pods": 1},
		corev1.PodFailed:    {"count/pods": 1},
	} {
		if got := Of(schema.GroupResource{Resource: "pods"}, &corev1.Pod{Status: corev1.PodStatus{Phase: phase}}); !maps.Equal(got, want) {
			t.Errorf("a pod in phase %q uses %v, want %v", phase, got, want)
		}
	}
}

// API-13: which names count objects, and of what.
func TestNames(t *testing.T) {
	for name, want := range map[corev1.ResourceName]string{
		"services": "services", "services.nodeports": "services", "services.loadbalancers": "services", "pods": "pods",
		"configmaps": "configmaps", "secrets": "secrets", "replicationcontrollers": "replicationcontrollers",
		"persistentvolumeclaims": "persistentvolumeclaims", "resourcequotas": "resourcequotas",
		"count/services": "services", "count/deployments.apps": "deployments.apps",
		"count/virtualmachines.kubevirt.io": "virtualmachines.kubevirt.io",
		// Not counted.
		"": "", "count/": "", "cpu": "", "requests.storage": "", "deployments": "", "deployments.apps": "", "Count/pods": "",
		"services.other": "", "example.com/pods": "", "count/events": "", "count/events.events.k8s.io": "",
	} {
		gr, ok := Counted(name)
		if ok != (want != "") || ok && gr.String() != want {
			t.Errorf("%q counts %q (%v), want %q", name, gr, ok, want)
		}
		if ok && !slices.Contains(Names(gr), name) {
			t.Errorf("%q counts %s, whose names are %v", name, gr, Names(gr))
		}
	}
	for gr, want := range map[string][]corev1.ResourceName{
		"services":            {"count/services", "services", "services.loadbalancers", "services.nodeports"},
		"pods":                {"count/pods", "pods"},
		"deployments.apps":    {"count/deployments.apps"},
		"pods.metrics.k8s.io": {"count/pods.metrics.k8s.io"}, // another group's pods are other pods
	} {
		gr := schema.ParseGroupResource(gr)
		if got := Names(gr); !slices.Equal(got, want) {
			t.Errorf("%s are limited by %v, want %v", gr, got, want)
		}
		if gr.Resource == "services" {
			continue
		}
		one := Amounts{}
		for _, name := range want {
			one[name] = 1
		}
		if got := Of(gr, struct{}{}); !maps.Equal(got, one) {
			t.Errorf("one of %s uses %v, want %v", gr, got, one)
		}
	}
}

// API-13: what may stand in spec.hard, in upstream's words; and what is only stored.
func TestValidate(t *testing.T) {
	const notKnown, negative, halves = "must be a standard resource for quota", "must be greater than or equal to 0", "must be an integer"
	for _, c := range []struct {
		name, amount string
		want         string // part of each error
		warns        bool
	}{
		{"services", "3", "", false},
		{"services", "0", "", false},
		{"services", "2k", "", false},
		{"services", "1.5", halves, false},
		{"services", "1500m", halves, false},
		{"services", "-1", negative, false},
		{"count/virtualmachines.kubevirt.io", "7", "", false},
		{"count/virtualmachines.kubevirt.io", "0.5", halves, false},
		{"count/", "1", "name part must", true},
		{"count/a/b", "1", "a valid label key must consist of", false},
		{"gold", "1", notKnown, true},
		{"requests.gold", "1", notKnown, true},
		{"deployments.apps", "1", notKnown, true},
		{"cpu", "1500m", "", true},
		{"limits.memory", "1Gi", "", true},
		{"requests.storage", "-1Gi", negative, true},
		{"hugepages-2Mi", "4Mi", "", true},
		{"requests.hugepages-2Mi", "4Mi", "", true},
		{"example.com/gpu", "2", "", true},
		{"example.com/gpu", "0.5", halves, true},
		{"requests.example.com/gpu", "2", "", true},
		{"fast.storageclass.storage.k8s.io/requests.storage", "1Gi", "", true},
		{"count/events", "5", "", true},
	} {
		spec := &corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceName(c.name): resource.MustParse(c.amount)}}
		errs := Validate(spec)
		if c.want == "" && len(errs) > 0 || c.want != "" && len(errs) == 0 {
			t.Errorf("%s: %s: got %v, want %q", c.name, c.amount, errs, c.want)
		}
		for _, err := range errs {
			if !strings.Contains(err.Error(), "spec.hard["+c.name+"]: Invalid value: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %s: got %v, want %q", c.name, c.amount, err, c.want)
			}
		}
		if warnings := Warnings(spec); (len(warnings) > 0) != c.warns {
			t.Errorf("%s: warnings %q", c.name, warnings)
		}
	}
	scoped := &corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}}
	if w := Warnings(scoped); len(w) != 1 || !strings.Contains(w[0], "scopes") || !Scoped(scoped) {
		t.Errorf("scopes: %q, %v", w, Scoped(scoped))
	}
}

// Amounts are written as plain numbers.
func TestList(t *testing.T) {
	got := Amounts{"services": 12, "pods": 0}.List()
	services, pods := got["services"], got["pods"]
	if len(got) != 2 || services.String() != "12" || pods.String() != "0" {
		t.Errorf("got %v", got)
	}
}
