package apiserver_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// BenchmarkServiceCreate is 8 clients with certificates, which create Services of the
// usual form over HTTP; the server is in the same process. Figures: creates per
// second, the 99th percentile, the processor's time per create, of both sides, and
// what the heap holds at the end. `-benchtime 10000x` fills the store as peers' figures
// have it.
func BenchmarkServiceCreate(b *testing.B) {
	s := start(b)
	cert, key, err := s.Authority.Client("bench", "system:masters")
	if err != nil {
		b.Fatal(err)
	}
	const clients = 8
	var kubes []kubernetes.Interface
	for range clients {
		kube, err := kubernetes.NewForConfig(&rest.Config{
			Host: s.Config.Host, QPS: -1,
			TLSClientConfig: rest.TLSClientConfig{CAData: s.Authority.PEM(), CertData: cert, KeyData: key},
		})
		if err != nil {
			b.Fatal(err)
		}
		kubes = append(kubes, kube)
	}
	var next atomic.Int64
	took := make([]time.Duration, b.N)
	cpu := processorTime(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, kube := range kubes {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(b.N); n = next.Add(1) - 1 {
				began := time.Now()
				_, err := kube.CoreV1().Services("default").Create(context.Background(), &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("svc-%d", n)},
					Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
				}, metav1.CreateOptions{})
				if err != nil {
					b.Error(err)
				}
				took[n] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64((processorTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/op")
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
	b.ReportMetric(residentMB(b), "rss-MB")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func residentMB(b *testing.B) float64 {
	b.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	return 0
}
