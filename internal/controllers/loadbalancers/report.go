package loadbalancers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// The ConfigurationState of this controller has the name, label and condition by which
// MetalLB's tools look for its controller's.
const (
	stateName      = "controller"
	componentLabel = "metallb.io/component-type"
	poolsCondition = "poolReconcilerValid"
)

// report writes what is true of the pools: how many addresses are given, and what is wrong
// with them.
func (c *controller) report(ctx context.Context) error {
	if c.allocator == nil {
		return nil
	}
	var errs []error
	counts := c.allocator.Counts()
	c.Metrics.set(&tally{counts, countLacks(c.refused)})
	for _, name := range slices.Sorted(maps.Keys(c.known)) {
		p := c.known[name]
		if p.Status == counts[name] {
			continue
		}
		next := *p
		next.Status = counts[name]
		if err := metallb.Apply(ctx, c.Dynamic, &next); err != nil {
			errs = append(errs, err)
			continue
		}
		c.known[name] = &next
	}
	return errors.Join(append(errs, c.reportFaults(ctx))...)
}

func (c *controller) reportFaults(ctx context.Context) error {
	condition := metav1.Condition{
		Type: poolsCondition, Status: metav1.ConditionTrue, Reason: "SyncStateSuccess",
		LastTransitionTime: metav1.NewTime(c.Clock.Now()).Rfc3339Copy(),
	}
	state := &core.ConfigurationState{
		ObjectMeta: metav1.ObjectMeta{Name: stateName, Labels: map[string]string{componentLabel: "controller"}},
		Status:     core.ConfigurationStateStatus{Result: "Valid"},
	}
	if len(c.faults) > 0 {
		lines := make([]string, len(c.faults))
		for i, f := range c.faults {
			lines[i] = f.String()
		}
		state.Status.Result, state.Status.ErrorSummary = "Invalid", strings.Join(lines, "\n")
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "ConfigurationError", state.Status.ErrorSummary
	}
	if c.told == state.Status.ErrorSummary && c.hasTold {
		return nil
	}
	state.Status.Conditions = []metav1.Condition{condition}
	if err := metallb.Apply(ctx, c.Dynamic, state); err != nil {
		return err
	}
	c.told, c.hasTold = state.Status.ErrorSummary, true
	c.tellFaults()
	return nil
}

// tellFaults has each pool's faults in an event of its own.
func (c *controller) tellFaults() {
	for _, f := range c.faults {
		c.Log.Warn("An IPAddressPool isn't served as written", "pool", f.Pool, "range", f.Range, "why", f.Message)
		if p := c.known[f.Pool]; c.Recorder != nil && p != nil {
			c.Recorder.Event(reference(p), corev1.EventTypeWarning, "RangeIgnored", f.String())
		}
	}
}

func reference(p *core.IPAddressPool) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: metallb.Pools.GroupVersion().String(), Kind: "IPAddressPool",
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
}
