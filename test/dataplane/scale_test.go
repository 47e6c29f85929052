package dataplane

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"portico.dev/portico/test/rig"
)

// TestScale measures an agent, as a process of its own, with many Services of ten
// endpoints each: memory, the time from its start until the kernel has all, what a
// second of 100 changes costs, and how long a change takes to the first packet. It
// logs what it sees and fails only where something doesn't work: the figures are for
// a quiet machine. PORTICO_LONG=1 runs it, with PORTICO naming the binary and
// PORTICO_SCALE a folder that keeps the Services for another run.
func TestScale(t *testing.T) {
	skipExempt(t)
	if os.Getenv("PORTICO_LONG") == "" {
		t.Skip("long; PORTICO_LONG=1 runs it")
	}
	for _, n := range []int{1000, 10000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			s := newScale(t, n)
			s.load()
			s.cold()
			s.latency("at rest", 200)
			s.churn(15 * time.Second)
			s.away()
			s.flush()
		})
	}
}

// scale is an API server and an agent, two processes in one namespace.
type scale struct {
	t       *testing.T
	host    *rig.Host
	portico string
	dir     string
	data    string // of the server
	kube    kubernetes.Interface
	n       int // Services

	agent   *process
	probe   netip.AddrPort    // a Service that leads to here
	servers [2]netip.AddrPort // its backends, of which one is ready
}

// process is a child with its output in a file.
type process struct {
	*exec.Cmd
	log   string
	begun time.Time
}

const scaleClusterCIDR = "10.128.0.0/9,fd00:10:244::/56"

func newScale(t *testing.T, n int) *scale {
	t.Helper()
	s := &scale{t: t, n: n, host: rig.NewHost(t, "scale"), dir: t.TempDir(), portico: os.Getenv("PORTICO")}
	s.data = filepath.Join(s.dir, "server")
	if keep := os.Getenv("PORTICO_SCALE"); keep != "" {
		s.data = filepath.Join(keep, strconv.Itoa(n))
	}
	if s.portico == "" {
		s.portico = "../../bin/portico"
	}
	var err error
	if s.portico, err = filepath.Abs(s.portico); err != nil {
		t.Fatal(err)
	}
	lan := rig.NewLAN(t)
	lan.Connect(t, s.host, netip.PrefixFrom(nodeAddr.v4, 24), netip.PrefixFrom(nodeAddr.v6, 64))
	for _, r := range []rig.Route{{To: prefixes("0.0.0.0/0")[0], Via: otherAddr.v4}, {To: prefixes("::/0")[0], Via: otherAddr.v6}} {
		r.Link = rig.Uplink
		if err := s.host.AddRoute(r); err != nil {
			t.Fatal(err)
		}
	}
	server := s.start("server", "up", "--no-agent", "--data-dir", s.data, "--listen", "127.0.0.1:6443", "--cluster-cidr", scaleClusterCIDR, "--guest-cidr", "10.127.0.0/16,fd00:10:245::/64")
	s.until("the API is ready", func() bool { return server.says(`"The API is ready"`) != "" })
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.ContentType = -1, "application/vnd.kubernetes.protobuf"
	config.Dial = func(_ context.Context, network, at string) (net.Conn, error) {
		return s.host.Dial(network, netip.AddrPort{}, netip.MustParseAddrPort(at), rig.Patience)
	}
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	for i := range s.servers {
		s.servers[i] = netip.AddrPortFrom(nodeAddr.v4, uint16(9001+i))
		s.host.ServeTCP(t, s.servers[i])
	}
	return s
}

func (s *scale) kubeconfig() string { return filepath.Join(s.data, "kubeconfig") }

// start starts portico in the namespace; it is killed when the test ends.
func (s *scale) start(name string, args ...string) *process {
	s.t.Helper()
	p := &process{Cmd: exec.Command(s.portico, args...), log: filepath.Join(s.dir, name+".log")}
	out, err := os.Create(p.log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	p.Stdout, p.Stderr = out, out
	p.begun = time.Now()
	if err := s.host.Do(p.Start); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		p.kill()
		if s.t.Failed() {
			raw, _ := os.ReadFile(p.log)
			s.t.Logf("%s said at last:\n%s", name, raw[max(0, len(raw)-4000):])
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

// says gives the last line of the log that has the words, "" when there is none.
func (p *process) says(words string) string {
	raw, _ := os.ReadFile(p.log)
	var found string
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, words) {
			found = strings.TrimSpace(line)
		}
	}
	return found
}

// cpu gives the processor time so far.
func (s *scale) cpu(p *process) (user, system time.Duration) {
	s.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // from the third on, proc_pid_stat(5)
	const tick = 10 * time.Millisecond                                      // USER_HZ is 100 on all that Go runs on
	ticks := func(n int) time.Duration {
		v, err := strconv.Atoi(fields[n-3])
		if err != nil {
			s.t.Fatal(err)
		}
		return time.Duration(v) * tick
	}
	return ticks(14), ticks(15)
}

var memoryLine = regexp.MustCompile(`(?m)^(VmHWM|VmRSS|RssAnon|RssFile):\s+(\d+) kB`)

// memory gives a process's memory in words, MB.
func (s *scale) memory(p *process) string {
	s.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	var words []string
	for _, m := range memoryLine.FindAllStringSubmatch(string(raw), -1) {
		kb, _ := strconv.Atoi(m[2])
		words = append(words, fmt.Sprintf("%s %d", m[1], kb/1000))
	}
	return strings.Join(words, ", ") + " MB"
}

// until waits for a state that no event tells.
func (s *scale) until(what string, f func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (s *scale) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// load makes the Services, the first of which is the probe.
func (s *scale) load() {
	s.t.Helper()
	ctx, begun := s.context(), time.Now()
	var group sync.WaitGroup
	for w := range 8 {
		group.Go(func() {
			for i := w; i < s.n; i += 8 {
				svc, slice := scaleService(i)
				_, err := s.kube.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{})
				if err == nil || apierrors.IsAlreadyExists(err) { // made by an earlier run
					_, err = s.kube.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
				}
				if err != nil && !apierrors.IsAlreadyExists(err) {
					s.t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	svc, err := s.kube.CoreV1().Services("default").Get(ctx, scaleName(0), metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.probe = netip.AddrPortFrom(addr(svc.Spec.ClusterIP), 80)
	s.change(s.probeSlice(0))
	s.t.Logf("%d Services with 10 endpoints made in %v", s.n, time.Since(begun).Round(time.Second))
}

func scaleName(i int) string { return fmt.Sprintf("web-%05d", i) }

func to[T any](v T) *T { return &v }

// scaleService is as Kubernetes' own controllers would write it.
func scaleService(i int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	meta := metav1.ObjectMeta{Namespace: "default", Name: scaleName(i), Labels: map[string]string{"app": scaleName(i)}}
	svc := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: to("http"), Port: to(int32(8080)), Protocol: to(corev1.ProtocolTCP)}},
	}
	slice.Name += "-abcde"
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: "scale", "app": svc.Name}
	for j := range 10 {
		id := i*10 + j
		a := netip.AddrFrom4([4]byte{10, byte(128 + id>>16), byte(id >> 8), byte(id)})
		slice.Endpoints = append(slice.Endpoints, scaleEndpoint(a.String(), fmt.Sprintf("%s-5d8c7b9f4-%05d", svc.Name, j), fmt.Sprintf("node-%d", id%100), fmt.Sprintf("zone-%d", id%3)))
	}
	return svc, slice
}

func scaleEndpoint(a, pod, node, zone string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{a}, NodeName: &node, Zone: &zone, Conditions: discoveryv1.EndpointConditions{Ready: to(true), Serving: to(true), Terminating: to(false)},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod, UID: "6b1e5f0e-3a52-4a8e-9a43-5b2f0a6f7c11"},
	}
}

// probeSlice has one of the two servers.
func (s *scale) probeSlice(which int) *discoveryv1.EndpointSlice {
	_, slice := scaleService(0)
	at := s.servers[which]
	slice.Endpoints = []discoveryv1.Endpoint{scaleEndpoint(at.Addr().String(), "probe", "here", "zone-1")}
	slice.Ports[0].Port = to(int32(at.Port()))
	return slice
}

// startAgent starts the agent and waits until the kernel has what it wants.
func (s *scale) startAgent() {
	s.t.Helper()
	s.agent = s.start("agent", "agent", "--kubeconfig", s.kubeconfig(), "--data-dir", filepath.Join(s.dir, "agent"), "--vm", "off", "--node-name", "here",
		"--cluster-cidr", scaleClusterCIDR, "--guest-cidr", "10.127.0.0/16,fd00:10:245::/64")
}

const synced = "The kernel has every Service"

// cold starts the agent on an empty kernel.
func (s *scale) cold() {
	s.t.Helper()
	s.startAgent()
	s.until("the first Sync", func() bool { return s.agent.says(synced) != "" })
	took := time.Since(s.agent.begun)
	user, system := s.cpu(s.agent)
	s.t.Logf("cold start: programmed after %v; %v user, %v system; %s", took.Round(time.Millisecond), user, system, s.agent.says(synced))
	s.t.Logf("at once: %s", s.memory(s.agent))
	s.answered(0)
	time.Sleep(10 * time.Second) // collections and the runtime's giving back of memory
	s.t.Logf("after 10 s: %s", s.memory(s.agent))
}

// answered waits until one of the servers answers at the probe.
func (s *scale) answered(which int) {
	s.t.Helper()
	s.until("an answer of "+s.servers[which].String(), func() bool { return s.asks(which) })
}

func (s *scale) asks(which int) bool {
	a, err := s.host.Ask("tcp", s.probe)
	return err == nil && a.Server == s.servers[which]
}

// latency changes the probe's slice n times and measures to the first packet.
func (s *scale) latency(how string, n int) {
	s.t.Helper()
	ctx := s.context()
	api := s.kube.DiscoveryV1().EndpointSlices("default")
	w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + s.probeSlice(0).Name})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	seen := make(chan time.Time, n+2)
	go func() {
		for e := range w.ResultChan() {
			if e.Type == watch.Modified {
				seen <- time.Now()
			}
		}
	}()
	var fromWrite, fromEvent []time.Duration
	for i := range n {
		which := (i + 1) % 2
		begun := time.Now()
		if _, err := api.Update(ctx, s.probeSlice(which), metav1.UpdateOptions{}); err != nil {
			s.t.Fatal(err)
		}
		s.answered(which)
		now := time.Now()
		fromWrite = append(fromWrite, now.Sub(begun))
		fromEvent = append(fromEvent, now.Sub(<-seen))
	}
	s.t.Logf("%s, from the API write: %s", how, spread(fromWrite))
	s.t.Logf("%s, from the watch event: %s", how, spread(fromEvent))
}

func spread(d []time.Duration) string {
	slices.Sort(d)
	at := func(part float64) time.Duration { return d[int(part*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, worst %v", at(0.5), at(0.99), at(1))
}

// churn changes one endpoint of 100 Services a second.
func (s *scale) churn(d time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.context())
	var group sync.WaitGroup
	group.Go(func() { s.changes(ctx) })
	time.Sleep(2 * time.Second) // until it is in its stride
	u0, s0 := s.cpu(s.agent)
	begun := time.Now()
	s.latency("under 100 changes/s", 100)
	time.Sleep(time.Until(begun.Add(d)))
	u1, s1 := s.cpu(s.agent)
	passed := time.Since(begun)
	cancel()
	group.Wait()
	part := func(d time.Duration) float64 { return 100 * float64(d) / float64(passed) }
	s.t.Logf("under 100 changes/s: %.1f%% of a processor (%.1f%% user, %.1f%% system); %s", part(u1-u0+s1-s0), part(u1-u0), part(s1-s0), s.memory(s.agent))
}

// change writes a slice.
func (s *scale) change(slice *discoveryv1.EndpointSlice) {
	s.t.Helper()
	if _, err := s.kube.DiscoveryV1().EndpointSlices("default").Update(s.context(), slice, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// changes updates slices until ctx ends.
func (s *scale) changes(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	api := s.kube.DiscoveryV1().EndpointSlices("default")
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, slice := scaleService(1 + i%(s.n-1))
		if i/(s.n-1)%2 == 0 {
			slice.Endpoints[3].Addresses[0] = "10.255.0.3"
		}
		if _, err := api.Update(ctx, slice, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
			s.t.Error(err)
			return
		}
	}
}

// away changes the probe while no agent runs, and starts one.
func (s *scale) away() {
	s.t.Helper()
	for i := range 3 {
		s.agent.kill()
		which := (i + 1) % 2
		s.change(s.probeSlice(which))
		s.startAgent()
		s.answered(which)
		took := time.Since(s.agent.begun)
		s.until("the Sync", func() bool { return s.agent.says(synced) != "" })
		s.t.Logf("a change made while the agent was away: served %v after its start; %s", took.Round(time.Millisecond), s.agent.says(synced))
	}
	time.Sleep(5 * time.Second)
	s.t.Logf("5 s after a start that adopts: %s", s.memory(s.agent))
}

// flush deletes all rules and waits for the probe to be served again.
func (s *scale) flush() {
	s.t.Helper()
	var took []time.Duration
	for range 10 {
		if _, err := s.host.Run("nft", "flush", "ruleset"); err != nil {
			s.t.Fatal(err)
		}
		begun := time.Now()
		s.until("an answer after the flush", func() bool {
			// At a pace of its own: a SYN that nobody answers is sent again after a second.
			c, err := s.host.Dial("tcp", netip.AddrPort{}, s.probe, 20*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		took = append(took, time.Since(begun))
	}
	s.t.Logf("flushed: served again after %s; %s", spread(took), s.memory(s.agent))
}
