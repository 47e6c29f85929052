// Package leader lets one process at a time do a job: the one that holds a
// Lease. It is a thin wrapper around client-go's leader election that waits for
// the job to end before it lets go of the Lease, and contends again after having
// lost it instead of ending the process.
//
// A Lease can't keep two leaders apart with certainty (a paused process may wake
// up after its time): the job's writes must themselves fail when another writer
// was faster, by resource versions and deterministic names.
package leader

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
)

// Config says who contends for which Lease.
type Config struct {
	Leases    coordinationclient.LeasesGetter
	Namespace string
	Name      string
	// Identity names this contender. A process that starts again after a crash
	// should have the identity it had: then the Lease is still its own, and it
	// goes on at once instead of waiting for it to expire. So it belongs to a
	// data directory, which one process at a time can use, not to a process.
	Identity string
	Log      *slog.Logger
	Timing   Timing // zero: DefaultTiming
}

// Timing is how long a Lease holds and how often it is renewed.
type Timing struct {
	Duration time.Duration // after this time without renewal others take over; whole seconds
	Deadline time.Duration // a leader that can't renew for so long stops; less than Duration
	Retry    time.Duration // between tries to take or renew
}

// DefaultTiming is that of Kubernetes' own controllers: the machine may stall
// for ten seconds, and a dead leader costs fifteen.
func DefaultTiming() Timing {
	return Timing{Duration: 15 * time.Second, Deadline: 10 * time.Second, Retry: 2 * time.Second}
}

// Run contends for the Lease until ctx ends, and calls lead each time it is won.
// The context given to lead ends when the Lease is lost or ctx ends; lead must
// then return. Run waits for it, gives the Lease back and returns nil. When ctx has
// ended it doesn't wait for a job that hangs longer than one has whose Lease is lost.
func Run(ctx context.Context, c Config, lead func(context.Context)) error {
	if c.Timing == (Timing{}) {
		c.Timing = DefaultTiming()
	}
	if _, err := c.elector(func(context.Context) {}, func() {}); err != nil {
		return fmt.Errorf("contend for lease %s/%s: %w", c.Namespace, c.Name, err)
	}
	for ctx.Err() == nil {
		if err := c.term(ctx, lead); err != nil {
			return fmt.Errorf("contend for lease %s/%s: %w", c.Namespace, c.Name, err)
		}
	}
	return nil
}

// term is one election: it ends when the Lease was lost, or given back because
// ctx ended.
//
// The Lease is renewed until the job is done, which may still be writing when ctx
// ends: the elector's context outlives ctx so long.
func (c *Config) term(ctx context.Context, lead func(context.Context)) error {
	electorCtx, letGo := context.WithCancel(context.WithoutCancel(ctx))
	defer letGo()

	// A job that hangs gets the time it would have if the Lease couldn't be renewed: from
	// the Deadline until others take over. Its context has ended, so it writes no more.
	patience, loseIt := context.WithCancel(context.WithoutCancel(ctx))
	defer loseIt()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(c.Timing.Duration-c.Timing.Deadline, loseIt) })()

	var mu sync.Mutex
	var job chan struct{} // guarded by mu; closed when the job has returned
	over := false         // guarded by mu; the term ended before the job began

	start := func(held context.Context) {
		mu.Lock()
		if over {
			mu.Unlock()
			return
		}
		done := make(chan struct{})
		job = done
		mu.Unlock()
		defer close(done)
		jobCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(held, cancel)()
		c.Log.Info("leading", "lease", c.Namespace+"/"+c.Name, "identity", c.Identity)
		lead(jobCtx)
	}
	// wait returns when no job runs and none will begin, or, false, when patience is over.
	wait := func() bool {
		mu.Lock()
		over = true
		running := job
		mu.Unlock()
		if running == nil {
			return true
		}
		select {
		case <-running:
			return true
		case <-patience.Done():
			return false
		}
	}
	elector, err := c.elector(start, func() {
		c.Log.Info("not leading", "lease", c.Namespace+"/"+c.Name, "identity", c.Identity)
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		wait()
		letGo()
	})
	elector.Run(electorCtx)
	stop()
	if !wait() {
		c.Log.Error("what leads doesn't end, and is no longer waited for", "lease", c.Namespace+"/"+c.Name)
	}
	if ctx.Err() != nil && elector.IsLeader() {
		c.giveBack(ctx)
	}
	return nil
}

// giveBack lets others have the Lease at once. client-go would do so before the job of a
// Lease that couldn't be renewed is told to end, which that delays by up to Deadline, and
// would not ask whose the Lease is by then.
func (c *Config) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timing.Deadline)
	defer cancel()
	leases := c.Leases.Leases(c.Namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error { // a renewal may still have been under way
		lease, err := leases.Get(ctx, c.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if holder := lease.Spec.HolderIdentity; holder == nil || *holder != c.Identity {
			return nil
		}
		lease.Spec.HolderIdentity = new(string)
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		c.Log.Warn("the Lease isn't given back, others wait until it is over", "lease", c.Namespace+"/"+c.Name, "err", err)
	}
}

func (c *Config) elector(start func(context.Context), stopped func()) (*leaderelection.LeaderElector, error) {
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name},
			Client:     c.Leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.Identity},
		},
		Name:          c.Name,
		LeaseDuration: c.Timing.Duration,
		RenewDeadline: c.Timing.Deadline,
		RetryPeriod:   c.Timing.Retry,
		Callbacks:     leaderelection.LeaderCallbacks{OnStartedLeading: start, OnStoppedLeading: stopped},
	})
}
