package vm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// pressEvery is how often the power button is pressed: a guest that boots has
// nobody yet who listens.
const pressEvery = 3 * time.Second

// Stop presses the power button, waits for the guest up to the grace period and
// then takes its power away. It returns when the guest is over, or with the
// context's error; a later Stop goes on.
func (g *Guest) Stop(ctx context.Context, grace time.Duration) error {
	if !g.ask(ReasonStopped) {
		<-g.over
		return nil
	}
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	button := time.NewTicker(pressEvery)
	defer button.Stop()
	if g.Status().State == Paused {
		// A paused guest can't hear the button.
		if err := g.command(ctx, "cont"); err != nil {
			g.log.Warn("the guest can't be resumed for its stop", "err", err)
		}
	}
	for {
		if grace > 0 {
			if err := g.command(ctx, "system_powerdown"); err != nil {
				g.log.Debug("no power button", "err", err)
			}
		}
		select {
		case <-g.over:
			return nil
		case <-deadline.C:
			return g.kill(ctx)
		case <-ctx.Done():
			return fmt.Errorf("stop the guest %s/%s: %w", g.Spec.Namespace, g.Spec.Name, ctx.Err())
		case <-button.C:
		}
	}
}

// StopAll stops and removes all guests at once, as `portico down` does.
func (m *Manager) StopAll(ctx context.Context, grace time.Duration) error {
	guests := m.Guests()
	errs := make([]error, len(guests))
	var all sync.WaitGroup
	for i, g := range guests {
		all.Go(func() {
			if errs[i] = g.Stop(ctx, grace); errs[i] == nil {
				errs[i] = g.Remove()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// kill takes the power away: by `quit`, which lets QEMU write what it holds of
// disk images, or by a signal where QEMU doesn't listen.
func (g *Guest) kill(ctx context.Context) error {
	g.log.Warn("the guest didn't power off in its grace period; its power is taken away")
	g.ask(ReasonKilled)
	if err := g.command(ctx, "quit"); err != nil {
		g.log.Debug("QEMU doesn't quit", "err", err)
	}
	patience := time.NewTimer(commandTimeout)
	defer patience.Stop()
	select {
	case <-g.over:
		return nil
	case <-patience.C:
	case <-ctx.Done():
	}
	if err := g.proc.Kill(); err != nil {
		return fmt.Errorf("stop the guest %s/%s: %w", g.Spec.Namespace, g.Spec.Name, err)
	}
	<-g.over
	return nil
}

// ask notes why we end the guest; it reports whether there is one to end.
func (g *Guest) ask(why string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.status.Over() {
		return false
	}
	g.asked = why
	return true
}
