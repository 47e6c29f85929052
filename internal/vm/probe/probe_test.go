package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	testclock "k8s.io/utils/clock/testing"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// VM-05: thresholds, as corev1.Probe describes them. Answers are + and -, the
// verdict after each is in want.
func TestState(t *testing.T) {
	for _, tc := range []struct {
		name                string
		good                bool
		successes, failures int
		answers, want       string
	}{
		{"one success is enough", false, 1, 3, "--+", "--+"},
		{"three failures in a row", true, 1, 3, "--+---", "+++++-"},
		{"two successes in a row", false, 2, 1, "+-++-", "---+-"},
		{"adopted as good stays good", true, 3, 3, "+++--", "+++++"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewState(Timing{Successes: tc.successes, Failures: tc.failures}, tc.good)
			got := ""
			for _, a := range tc.answers {
				before := s.Good()
				if changed := s.Observe(a == '+'); changed != (before != s.Good()) {
					t.Errorf("changed is %v, verdict %v to %v", changed, before, s.Good())
				}
				got += map[bool]string{true: "+", false: "-"}[s.Good()]
			}
			if got != tc.want {
				t.Errorf("verdicts %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRunnerKeepsTime(t *testing.T) {
	c := testclock.NewFakeClock(time.Unix(1000, 0))
	answers := make(chan error)
	verdicts := make(chan bool)
	ctx, cancel := context.WithCancel(t.Context())
	r := Runner{
		Timing: Timing{InitialDelay: 5 * time.Second, Period: 2 * time.Second, Timeout: time.Second, Successes: 1, Failures: 1},
		Check:  func(context.Context) error { return <-answers },
		Clock:  c, Report: func(good bool, _ string) { verdicts <- good },
	}
	ended := make(chan struct{})
	go func() { r.Run(ctx, c.Now().Add(-time.Second), false); close(ended) }()
	step := func(d time.Duration) {
		for !c.HasWaiters() {
			time.Sleep(time.Millisecond) // until Run waits for the clock
		}
		c.Step(d)
	}
	step(3 * time.Second) // 4 of 5 s have passed
	select {
	case answers <- nil:
		t.Fatal("it asked before the initial delay was over")
	case <-time.After(20 * time.Millisecond):
	}
	step(time.Second)
	answers <- nil
	if !<-verdicts {
		t.Fatal("not good after a success")
	}
	step(2 * time.Second)
	answers <- errors.New("refused")
	if <-verdicts {
		t.Fatal("good after a failure")
	}
	cancel()
	<-ended
}

func TestChecks(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "example.com" || r.Header.Get("X-A") != "b" || r.URL.RawQuery != "q=1" || r.UserAgent() != userAgent {
			http.Error(w, "wrong request", http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/sick", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "disk full", http.StatusInternalServerError)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/sick", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer secure.Close()
	port := func(s *httptest.Server) intstr.IntOrString {
		return intstr.FromInt(s.Listener.Addr().(*net.TCPAddr).Port)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := intstr.FromInt(closed.Addr().(*net.TCPAddr).Port)
	closed.Close()
	get := func(path string, s *httptest.Server) kubevirtv1.Handler {
		return kubevirtv1.Handler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: port(s), Scheme: corev1.URIScheme(strings.ToUpper(strings.SplitN(s.URL, ":", 2)[0])),
			HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "example.com"}, {Name: "X-A", Value: "b"}},
		}}
	}
	tcp := func(p intstr.IntOrString) kubevirtv1.Handler {
		return kubevirtv1.Handler{TCPSocket: &corev1.TCPSocketAction{Port: p}}
	}
	for _, tc := range []struct {
		name string
		h    kubevirtv1.Handler
		want string // part of the error, "" for success
	}{
		{"tcp", tcp(port(plain)), ""},
		{"tcp by name", tcp(intstr.FromString("web")), ""},
		{"tcp by numeric string", tcp(intstr.FromString(closedPort.String())), "refused"},
		{"tcp refused", tcp(closedPort), "refused"},
		{"http", get("/ok?q=1", plain), ""},
		{"https", get("ok?q=1", secure), ""},
		{"http 500", get("/sick", plain), "disk full"},
		{"redirect to another host", get("/away", plain), ""},
		{"redirect here", get("/here", plain), "disk full"},
		{"too slow", get("/slow", plain), "deadline"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			named := []corev1.ContainerPort{{Name: "web", ContainerPort: port(plain).IntVal}}
			timing, check, err := New(&kubevirtv1.Probe{Handler: tc.h}, netip.MustParseAddr("127.0.0.1"), named)
			if err != nil {
				t.Fatal(err)
			}
			if timing != (Timing{0, 10 * time.Second, time.Second, 1, 3}) {
				t.Errorf("defaults %+v", timing)
			}
			patience := 30 * time.Second
			if tc.want == "deadline" {
				patience = 200 * time.Millisecond // it would never answer
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err = check(ctx)
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestBadProbes(t *testing.T) {
	for name, h := range map[string]kubevirtv1.Handler{
		"nothing":      {},
		"unknown name": {TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}},
		"port 0":       {TCPSocket: &corev1.TCPSocketAction{}},
		"ftp":          {HTTPGet: &corev1.HTTPGetAction{Scheme: "FTP", Port: intstr.FromInt32(1)}},
		"exec":         {Exec: &corev1.ExecAction{}},
		"agent":        {GuestAgentPing: &kubevirtv1.GuestAgentPing{}},
	} {
		if _, _, err := New(&kubevirtv1.Probe{Handler: h}, netip.MustParseAddr("::1"), nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
