package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Check asks once. Its error says why the answer is no.
type Check func(ctx context.Context) error

// ErrUnsupported says that this kind of probe needs what we don't have yet.
var ErrUnsupported = errors.New("isn't supported yet; use tcpSocket or httpGet")

// New reads a probe of an instance. ports are those that the pod's container
// names; target is the guest's primary address.
func New(p *kubevirtv1.Probe, target netip.Addr, ports []corev1.ContainerPort) (Timing, Check, error) {
	seconds := func(n, byDefault int32) time.Duration {
		if n <= 0 {
			n = byDefault
		}
		return time.Duration(n) * time.Second
	}
	t := Timing{
		InitialDelay: time.Duration(max(0, p.InitialDelaySeconds)) * time.Second,
		Period:       seconds(p.PeriodSeconds, 10),
		Timeout:      seconds(p.TimeoutSeconds, 1),
		Successes:    max(1, int(p.SuccessThreshold)),
		Failures:     int(p.FailureThreshold),
	}
	if t.Failures <= 0 {
		t.Failures = 3
	}
	switch {
	case p.TCPSocket != nil:
		port, err := portNumber(p.TCPSocket.Port, ports)
		if err != nil {
			return t, nil, fmt.Errorf("tcpSocket.port: %w", err)
		}
		return t, tcp(host(p.TCPSocket.Host, target), port), nil
	case p.HTTPGet != nil:
		port, err := portNumber(p.HTTPGet.Port, ports)
		if err != nil {
			return t, nil, fmt.Errorf("httpGet.port: %w", err)
		}
		check, err := httpGet(p.HTTPGet, host(p.HTTPGet.Host, target), port)
		return t, check, err
	case p.Exec != nil:
		return t, nil, fmt.Errorf("exec %w", ErrUnsupported)
	case p.GuestAgentPing != nil:
		return t, nil, fmt.Errorf("guestAgentPing %w", ErrUnsupported)
	}
	return t, nil, errors.New("it says neither tcpSocket nor httpGet")
}

func host(named string, target netip.Addr) string {
	if named != "" {
		return named
	}
	return target.String()
}

func portNumber(p intstr.IntOrString, ports []corev1.ContainerPort) (int, error) {
	n := p.IntValue() // a numeric string counts too, as for a kubelet
	if p.Type == intstr.String && n == 0 {
		for _, c := range ports {
			if c.Name == p.StrVal {
				return int(c.ContainerPort), nil
			}
		}
		return 0, fmt.Errorf("no interface has a port named %q", p.StrVal)
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("%s is no port number", p.String())
	}
	return n, nil
}

// Runner repeats one check.
type Runner struct {
	Timing Timing
	Check  Check
	Clock  clock.WithTicker
	// Report gets every change of the verdict, with the reason when it is no.
	Report func(good bool, why string)
}

// Run checks until the context ends. started is when the guest began to run;
// good is the verdict so far.
func (r Runner) Run(ctx context.Context, started time.Time, good bool) {
	state := NewState(r.Timing, good)
	wait := r.Clock.NewTimer(r.Timing.First(r.Clock.Since(started)))
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-wait.C():
	}
	tick := r.Clock.NewTicker(r.Timing.Period)
	defer tick.Stop()
	for {
		err := r.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if state.Observe(err == nil) {
			why := ""
			if err != nil {
				why = err.Error()
			}
			r.Report(state.Good(), why)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
	}
}

func (r Runner) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timing.Timeout)
	defer cancel()
	return r.Check(ctx)
}
