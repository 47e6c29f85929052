package machines

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/node"
	"portico.dev/portico/internal/vm"
	"portico.dev/portico/internal/vm/probe"
)

// load is one guest as a workload: its state and what the readiness probe says.
type load struct {
	m     *Machines
	guest *vm.Guest
	news  chan struct{} // holds a token when Observe may give something new
	ended sync.WaitGroup

	mu    sync.Mutex // guards the following
	ready bool       // what the probe says
	why   string     // why it says no
}

// loadOf gives the one load of a guest, made at the first call. ready is what was
// known of a guest that an earlier daemon started: its endpoint must not flap
// because of a restart.
func (m *Machines) loadOf(g *vm.Guest, ready bool) *load {
	m.mu.Lock()
	defer m.mu.Unlock()
	uid := types.UID(g.Spec.PodUID)
	if l, ok := m.loads[uid]; ok && l.guest == g {
		return l
	}
	l := &load{m: m, guest: g, news: make(chan struct{}, 1), ready: ready, why: "the readiness probe hasn't succeeded yet"}
	m.loads[uid] = l
	l.ended.Go(func() { l.follow(m.ctx) })
	return l
}

func wasReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.ContainersReady && c.Status == corev1.ConditionTrue
	})
}

func (l *load) wait() { l.ended.Wait() }

// follow passes on the guest's news, and probes the guest while it lives.
func (l *load) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel()
	if run := l.prober(); run != nil && !l.guest.Status().Over() {
		probing.Go(func() { run(ctx) })
	}
	for {
		l.tell()
		if l.guest.Status().Over() {
			return
		}
		select {
		case <-l.guest.Changed():
		case <-ctx.Done():
			return
		}
	}
}

func (l *load) tell() {
	select {
	case l.news <- struct{}{}:
	default: // a token is there already
	}
}

// prober is nil for a guest without a probe, which is ready when it runs (VM-05).
func (l *load) prober() func(context.Context) {
	s := &l.guest.Spec
	if s.Readiness == nil {
		l.set(true, "")
		return nil
	}
	targets := s.Addresses
	if len(targets) == 0 {
		targets = []netip.Addr{{}} // a probe that names its host needs no address
	}
	var timing probe.Timing
	checks := make([]probe.Check, len(targets))
	for i, target := range targets {
		var err error
		if timing, checks[i], err = probe.New(s.Readiness, target, s.Ports); err != nil {
			l.set(false, "spec.readinessProbe: "+err.Error())
			return nil
		}
	}
	l.mu.Lock()
	ready := l.ready
	l.mu.Unlock()
	if ready {
		checks = checks[:1] // it has been through this before the daemon's restart
	}
	r := probe.Runner{Timing: timing, Check: probe.AllFamilies(l.m.cfg.Clock, checks...), Clock: l.m.cfg.Clock, Report: func(good bool, why string) {
		if why != "" {
			why = "the readiness probe fails: " + why
		}
		l.set(good, why)
		l.tell()
	}}
	return func(ctx context.Context) { r.Run(ctx, l.guest.Status().Started, ready) }
}

func (l *load) set(ready bool, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.why = ready, why
}

// PodUID implements node.Workload.
func (l *load) PodUID() types.UID { return types.UID(l.guest.Spec.PodUID) }

// Changed implements node.Workload.
func (l *load) Changed() <-chan struct{} { return l.news }

// Observe implements node.Workload.
func (l *load) Observe() node.Observation {
	s := l.guest.Status()
	l.mu.Lock()
	ready, why := l.ready, l.why
	l.mu.Unlock()
	o := node.Observation{
		Phase: corev1.PodRunning, ID: "qemu://" + l.guest.Spec.ID, Started: s.Started, Ended: s.Ended,
		Reason: s.Reason, Message: s.Message,
		Conditions: []corev1.PodCondition{accelerated(s)},
	}
	switch s.State {
	case vm.Running:
		o.Ready = ready
		if !ready {
			o.Reason, o.Message = "ContainersNotReady", why
		}
	case vm.Ended:
		o.Phase = corev1.PodSucceeded
	case vm.Failed:
		o.Phase = corev1.PodFailed
	}
	if !s.Over() {
		o.Conditions = append(o.Conditions, unpaused(s))
	}
	return o
}

func accelerated(s vm.Status) corev1.PodCondition {
	return corev1.PodCondition{
		Type: machine.AcceleratedCondition, Status: truth(s.Accel.KVM), Reason: s.Accel.Reason, Message: s.Accel.Message,
	}
}

// unpaused is the readiness gate that instances' pods have.
func unpaused(s vm.Status) corev1.PodCondition {
	c := corev1.PodCondition{Type: kubevirtv1.VirtualMachineUnpaused, Status: truth(s.State != vm.Paused), Reason: "NotPaused"}
	if s.State == vm.Paused {
		c.Reason, c.Message = s.Reason, s.Message
	}
	return c
}

func truth(b bool) corev1.ConditionStatus {
	if b {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// Stop implements node.Workload.
func (l *load) Stop(ctx context.Context, grace time.Duration) error { return l.guest.Stop(ctx, grace) }

// Remove implements node.Workload.
func (l *load) Remove() error {
	if err := l.guest.Remove(); err != nil {
		return err
	}
	l.wait()
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.loads, l.PodUID())
	return nil
}
