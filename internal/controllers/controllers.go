// Package controllers runs the parts that turn objects into other objects, each
// in a package of its own below, all under one Lease: of several processes on
// one API server, one runs them.
//
//	watch -> controller -> core (decides) -> controller -> write
//
// In: a list of named functions, wired by the caller. Out: nothing but what they
// write. The controllers don't know each other; they meet in the API's objects, of
// which they share caches.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/leader"
)

// LeaseNamespace and LeaseName say where the Lease of all controllers is.
const (
	LeaseNamespace = "kube-system"
	LeaseName      = "portico-controllers"
)

// Controller is one of them. Run works until ctx ends and has no goroutine left
// when it returns. It may be called again, once for each time the Lease is won,
// so it makes its watches and queues anew.
type Controller struct {
	Name string
	Run  func(ctx context.Context) error
}

// A controller that fails is started again after a pause that doubles from the
// first to the last, and is short again once it has run for longer than that.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// Config is what Run needs besides the controllers.
type Config struct {
	Lease leader.Config // Namespace and Name default to LeaseNamespace, LeaseName
	// Client reads what the controllers' shared caches hold.
	Client kubernetes.Interface
	Held   caches.Held // where the API server is in this process; nil: it isn't
	Log    *slog.Logger
	Clock  clock.WithTicker // nil: the real one
}

// Run runs the controllers whenever this process holds the Lease, until ctx
// ends. It returns when all of them have, or soon where one hangs, with the Lease given
// back. list is called at the begin of each term with the caches of that term.
func Run(ctx context.Context, c Config, list func(*caches.Shared) []Controller) error {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Lease.Namespace == "" {
		c.Lease.Namespace = LeaseNamespace
	}
	if c.Lease.Name == "" {
		c.Lease.Name = LeaseName
	}
	if c.Lease.Log == nil {
		c.Lease.Log = c.Log
	}
	return leader.Run(ctx, c.Lease, func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		shared := caches.Share(ctx, c.Client, c.Held)
		defer shared.Close()
		defer cancel()
		c.runAll(ctx, list(shared))
	})
}

func (c *Config) runAll(ctx context.Context, list []Controller) {
	var wg sync.WaitGroup
	for _, controller := range list {
		wg.Go(func() { c.keepRunning(ctx, controller) })
	}
	wg.Wait()
}

// keepRunning starts a controller again when it fails: the others, and the Lease
// they all hold, aren't to suffer from it.
func (c *Config) keepRunning(ctx context.Context, controller Controller) {
	pause := firstPause
	for ctx.Err() == nil {
		began := c.Clock.Now()
		err := runOnce(ctx, controller)
		if ctx.Err() != nil {
			return
		}
		if c.Clock.Since(began) > lastPause {
			pause = firstPause
		}
		c.Log.Error("controller failed", "controller", controller.Name, "again_in", pause, "err", err)
		timer := c.Clock.NewTimer(pause)
		select {
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, lastPause)
	}
}

var errReturned = errors.New("it returned although nobody asked it to")

// runOnce turns a panic into an error: a mistake in one controller must not take
// the API server and the node's agent of the same process with it.
func runOnce(ctx context.Context, controller Controller) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := controller.Run(ctx); err != nil {
		return err
	}
	return errReturned
}
