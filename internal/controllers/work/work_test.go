package work

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"k8s.io/utils/clock"
)

// What fails, or panics, is tried again; what is added while it is worked on is
// worked on once more; at the end no worker is left.
func TestRetries(t *testing.T) {
	q := New[string]("test", slog.New(slog.DiscardHandler), clock.RealClock{})
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	var working atomic.Int32
	q.Add("key")
	q.Add("key")
	q.Run(ctx, 4, func(ctx context.Context, key string) error {
		if working.Add(1) > 1 {
			t.Error("two workers have the same key")
		}
		defer working.Add(-1)
		tries++
		switch tries {
		case 1:
			return errors.New("no")
		case 2:
			panic("oh")
		case 3:
			q.Add(key)
			return nil
		}
		cancel()
		return ctx.Err()
	})
	if tries != 4 || working.Load() != 0 {
		t.Errorf("%d tries, %d at work", tries, working.Load())
	}
}
