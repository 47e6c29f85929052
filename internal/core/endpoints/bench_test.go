package endpoints

import (
	"fmt"
	"maps"
	"strconv"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// thousandServices are Services of both families with 100 pods each.
func thousandServices() []Input {
	out := make([]Input, 1000)
	for n := range out {
		app := map[string]string{"app": strconv.Itoa(n)}
		svc := service(func(s *corev1.Service) {
			s.Name, s.UID, s.Spec.Selector = fmt.Sprintf("web-%d", n), types.UID(strconv.Itoa(n)), app
		})
		pods := podsUpTo(100)
		for _, p := range pods {
			p.Labels = maps.Clone(app)
		}
		out[n] = Input{Service: svc, Pods: pods, Zone: zones}
	}
	return out
}

// What a controller that has just started computes: 100,000 pods in 1,000 Services,
// which takes less than a second.
func BenchmarkThousandServices(b *testing.B) {
	all := thousandServices()
	b.ReportAllocs()
	for b.Loop() {
		for i := range all {
			if p := Slices(all[i]); len(p.Create) != 2 {
				b.Fatalf("%d slices, want one of each family", len(p.Create))
			}
		}
	}
}

// One pod among them loses its readiness: what doesn't concern it costs nothing.
func BenchmarkOnePodOfThousandServices(b *testing.B) {
	in := thousandServices()[500]
	in.Existing = apply(nil, Slices(in))
	old := in.Pods[50]
	in.Pods[50] = old.DeepCopy()
	unready(in.Pods[50])
	b.ReportAllocs()
	begin := processorTime(b)
	for b.Loop() {
		if !PodChanged(old, in.Pods[50]) || !Selects(in.Service, in.Pods[50]) {
			b.Fatal("the change isn't seen")
		}
		if p := Slices(in); len(p.Update) != 2 {
			b.Fatalf("%d updates, want one of each family", len(p.Update))
		}
	}
	b.ReportMetric(float64(processorTime(b)-begin)/float64(b.N), "cpu-ns/op")
}

// processorTime is what this process has used, the garbage collector's part included.
// Unlike the clock it doesn't go on while other programs run.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The time of a sync of one change in a large Service.
func BenchmarkOneOfThousand(b *testing.B) {
	svc, pods := service(single), podsUpTo(1000)
	existing := apply(nil, Slices(Input{Service: svc, Pods: pods}))
	pods[500] = pod(500, unready)
	b.ReportAllocs()
	for b.Loop() {
		if p := Slices(Input{Service: svc, Pods: pods, Existing: existing}); len(p.Update) != 1 {
			b.Fatal("want one update")
		}
	}
}
