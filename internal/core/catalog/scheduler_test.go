package catalog

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A Service's scheduler is one of IPVS's; any other name is a fault and the default.
func TestScheduler(t *testing.T) {
	svc := &corev1.Service{}
	for _, c := range []struct{ written, want, fault string }{
		{"", "", ""}, {"lc", "lc", ""}, {"LC", "", "BadScheduler"}, {"fastest", "", "BadScheduler"},
	} {
		svc.Annotations = map[string]string{SchedulerAnnotation: c.written}
		got, fault := FromService(svc), ""
		for _, f := range got.Faults {
			fault = f.Reason.String()
		}
		if got.Scheduler != c.want || fault != c.fault {
			t.Errorf("%q: scheduler %q, fault %q, want %q, %q", c.written, got.Scheduler, fault, c.want, c.fault)
		}
	}
}
