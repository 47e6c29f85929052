package machine

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// VM-01: what each strategy does without an instance, with one that runs, and
// with one that ended.
func TestDesired(t *testing.T) {
	type row [5]Action // no instance, Running, Succeeded, Failed, being deleted
	states := []kubevirtv1.VirtualMachineInstancePhase{noPhase, kubevirtv1.Running, kubevirtv1.Succeeded, kubevirtv1.Failed, ending}
	for s, want := range map[kubevirtv1.VirtualMachineRunStrategy]row{
		always: {Start, Leave, Stop, Stop, Leave},
		halted: {Leave, Stop, Stop, Stop, Leave},
		manual: {Leave, Leave, Leave, Leave, Leave},
		rerun:  {Start, Leave, Stop, Stop, Leave},
		once:   {Start, Leave, Leave, Leave, Leave},
	} {
		for i, state := range states {
			vm := testVM(strategy(s))
			vmi := instanceIn(vm, state)
			vm.Status = MachineStatus(vm, vmi, nil, now)
			if got := Desired(vm, vmi, now); got.Action != want[i] {
				t.Errorf("%s, %s: %v, want %v", s, state, got, want[i])
			}
		}
	}
}

func TestDeletedMachineStopsItsInstance(t *testing.T) {
	vm := testVM()
	vm.DeletionTimestamp = &metav1.Time{Time: now}
	if d := Desired(vm, instanceIn(vm, kubevirtv1.Running), now); d.Action != Stop {
		t.Errorf("with an instance: %v", d)
	}
	if d := Desired(vm, nil, now); d.Action != Leave {
		t.Errorf("without: %v", d)
	}
}

// world plays controller and node: each step does what Desired says, and the
// instance goes the way that outcome says when it runs.
type world struct {
	vm   *kubevirtv1.VirtualMachine
	vmi  *kubevirtv1.VirtualMachineInstance
	now  time.Time
	made int
	log  []string
}

func (w *world) step() Decision {
	w.vm.Status = MachineStatus(w.vm, w.vmi, nil, w.now)
	d := Desired(w.vm, w.vmi, w.now)
	switch d.Action {
	case Start:
		w.made++
		w.vmi = instanceOf(w.vm, types.UID(fmt.Sprintf("vmi-%d", w.made)), kubevirtv1.Pending)
		w.log = append(w.log, "start")
	case Stop:
		w.vmi = deleting(w.vmi)
		w.log = append(w.log, "stop")
	case Leave:
		if w.vmi != nil && w.vmi.DeletionTimestamp != nil {
			w.vmi = nil // the pod went, and the finalizer with it
		}
	}
	return d
}

// settle steps until nothing changes any more.
func (w *world) settle() Decision {
	for range 20 {
		had := w.vmi
		if d := w.step(); d.Action == Leave && had == w.vmi {
			return d
		}
	}
	panic("it doesn't settle")
}

func (w *world) enter(phase kubevirtv1.VirtualMachineInstancePhase) {
	w.vmi.Status.Phase = phase
	w.vmi.Status.PhaseTransitionTimestamps = append(w.vmi.Status.PhaseTransitionTimestamps,
		kubevirtv1.VirtualMachineInstancePhaseTransitionTimestamp{Phase: phase, PhaseTransitionTimestamp: metav1.NewTime(w.now)})
}

func (w *world) ask(t *testing.T, verb string) {
	t.Helper()
	var change Change
	var err error
	switch verb {
	case "start":
		change, err = StartMachine(w.vm, w.vmi, kubevirtv1.StartOptions{})
	case "stop":
		change, err = StopMachine(w.vm, w.vmi, kubevirtv1.StopOptions{})
	case "restart":
		change, err = RestartMachine(w.vm, w.vmi, kubevirtv1.RestartOptions{})
	}
	if err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	change.Apply(w.vm)
}

// VM-01: requests lead to what they ask for, in every strategy that takes them.
func TestRequestsAreServed(t *testing.T) {
	for _, c := range []struct {
		name     string
		strategy kubevirtv1.VirtualMachineRunStrategy
		do       func(*testing.T, *world)
		runs     bool // in the end
		made     int  // instances, in all
	}{
		{"manual waits", manual, func(*testing.T, *world) {}, false, 0},
		{"manual start", manual, func(t *testing.T, w *world) { w.ask(t, "start") }, true, 1},
		{"manual start, stop", manual, func(t *testing.T, w *world) {
			w.ask(t, "start")
			w.settle()
			w.ask(t, "stop")
		}, false, 1},
		{"manual restart", manual, func(t *testing.T, w *world) {
			w.ask(t, "start")
			w.settle()
			w.ask(t, "restart")
		}, true, 2},
		{"manual start of one that ended", manual, func(t *testing.T, w *world) {
			w.ask(t, "start")
			w.settle()
			w.enter(kubevirtv1.Succeeded)
			w.settle()
			w.ask(t, "start")
		}, true, 2},
		{"always restart", always, func(t *testing.T, w *world) {
			w.settle()
			w.ask(t, "restart")
		}, true, 2},
		{"always stop, start", always, func(t *testing.T, w *world) {
			w.settle()
			w.ask(t, "stop")
			w.settle()
			w.ask(t, "start")
		}, true, 2},
		{"rerun stop", rerun, func(t *testing.T, w *world) {
			w.settle()
			w.ask(t, "stop")
		}, false, 1},
		{"rerun stop, start", rerun, func(t *testing.T, w *world) {
			w.settle()
			w.ask(t, "stop")
			w.settle()
			w.ask(t, "start")
		}, true, 2},
		{"rerun that ended well stays", rerun, func(_ *testing.T, w *world) {
			w.settle()
			w.enter(kubevirtv1.Succeeded)
		}, false, 1},
		{"rerun that failed reruns", rerun, func(_ *testing.T, w *world) {
			w.settle()
			w.enter(kubevirtv1.Running)
			w.step()
			w.enter(kubevirtv1.Failed)
		}, true, 2},
		{"once runs once", once, func(_ *testing.T, w *world) {
			w.settle()
			w.enter(kubevirtv1.Failed)
		}, true, 1}, // the ended instance stays
		{"halted to rerun by patch", halted, func(_ *testing.T, w *world) {
			w.settle()
			strategy(rerun)(w.vm)
		}, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{vm: testVM(strategy(c.strategy)), now: now}
			w.settle()
			c.do(t, w)
			w.settle()
			if runs := w.vmi != nil; runs != c.runs || w.made != c.made {
				t.Errorf("an instance: %v, made %d; want %v, %d; %v", runs, w.made, c.runs, c.made, w.log)
			}
			if r := w.vm.Status.StateChangeRequests; len(r) != 0 {
				t.Errorf("requests are left: %v", r)
			}
		})
	}
}

// VM-06: ends in a row back off: 10 s doubling to 5 min; the first start after
// a guest that ran is at once; running for 10 minutes forgets all.
func TestBackOff(t *testing.T) {
	crash := func(w *world, ranFor time.Duration) time.Duration {
		w.settle()
		if ranFor > 0 {
			w.enter(kubevirtv1.Running)
			w.step()
			w.now = w.now.Add(ranFor)
		}
		w.enter(kubevirtv1.Failed)
		return w.settle().After
	}
	t.Run("never ran", func(t *testing.T) {
		w := &world{vm: testVM(), now: now}
		for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			if got := crash(w, 0); got != want*time.Second {
				t.Errorf("wait %d is %s, want %ds", i, got, want)
			}
			if s := w.vm.Status.PrintableStatus; s != kubevirtv1.VirtualMachineStatusCrashLoopBackOff {
				t.Errorf("status %s", s)
			}
			w.now = w.now.Add(want * time.Second)
		}
		w.settle()
		if s := w.vm.Status.PrintableStatus; s != kubevirtv1.VirtualMachineStatusProvisioning || w.made != 8 {
			t.Errorf("after the wait: %s, %d instances", s, w.made)
		}
	})
	t.Run("ran", func(t *testing.T) {
		w := &world{vm: testVM(), now: now}
		for i, c := range []struct{ ran, want time.Duration }{
			{5 * time.Second, 0},
			{5 * time.Second, 10 * time.Second},
			{5 * time.Second, 20 * time.Second},
			{10 * time.Minute, 0},
			{5 * time.Second, 10 * time.Second},
		} {
			if got := crash(w, c.ran); got != c.want {
				t.Errorf("wait %d is %s, want %s", i, got, c.want)
			}
			w.now = w.now.Add(c.want)
		}
	})
	t.Run("an end counts once", func(t *testing.T) {
		vm := testVM()
		vmi := instanceOf(vm, "vmi-1", kubevirtv1.Failed)
		for range 3 { // the instance's deletion is slow
			vm.Status = MachineStatus(vm, vmi, nil, now)
		}
		if f := vm.Status.StartFailure; f.ConsecutiveFailCount != 1 {
			t.Errorf("%d ends of one instance", f.ConsecutiveFailCount)
		}
	})
	t.Run("a stop isn't a crash", func(t *testing.T) {
		w := &world{vm: testVM(), now: now}
		w.settle()
		w.enter(kubevirtv1.Running)
		w.step()
		w.ask(t, "restart")
		w.step() // Stop
		w.enter(kubevirtv1.Failed)
		w.settle()
		if f := w.vm.Status.StartFailure; f != nil || w.made != 2 {
			t.Errorf("%v after a restart, %d instances", f, w.made)
		}
	})
	t.Run("a pod that is taken away isn't a crash", func(t *testing.T) {
		ended := func(phase corev1.PodPhase) *corev1.Pod {
			return pod(phase, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} })
		}
		w := &world{vm: testVM(), now: now}
		crash(w, time.Second) // the next crash would wait
		for _, p := range []*corev1.Pod{ended(corev1.PodSucceeded), ended(corev1.PodFailed), nil} {
			w.settle()
			w.enter(kubevirtv1.Running)
			made := w.made
			w.vmi.Status = InstanceStatus(w.vmi, p, w.now)
			w.settle()
			if f := w.vm.Status.StartFailure; w.made != made+1 || f.ConsecutiveFailCount != 1 {
				t.Errorf("pod %v: %d starts since, failures %+v", p, w.made-made, f)
			}
		}
	})
	t.Run("forgotten when healthy", func(t *testing.T) {
		w := &world{vm: testVM(), now: now}
		crash(w, 0)
		w.now = w.now.Add(10 * time.Second)
		w.settle()
		w.enter(kubevirtv1.Running)
		w.settle()
		if got := HealthyAfter(w.vm, w.vmi, w.now); got != backOffReset {
			t.Errorf("healthy after %s", got)
		}
		w.now = w.now.Add(backOffReset)
		w.settle()
		if w.vm.Status.StartFailure != nil {
			t.Error("the failure isn't forgotten")
		}
	})
	t.Run("a stop ends the back-off", func(t *testing.T) {
		w := &world{vm: testVM(), now: now}
		crash(w, 0)
		w.ask(t, "stop")
		w.settle()
		if s := w.vm.Status.PrintableStatus; s != kubevirtv1.VirtualMachineStatusStopped {
			t.Errorf("status %s", s)
		}
		w.ask(t, "start")
		w.settle()
		if w.vmi == nil {
			t.Error("a start waits for the back-off of before")
		}
	})
}
