package claims

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/ipam"
)

// Hints are allocators that know, roughly, what is taken.
type Hints interface {
	// Replace makes the hints equal to the keys of all claims.
	Replace(keys iter.Seq[string])
	Mark(claims ...ipam.Claim)
	Free(claims ...ipam.Claim)
}

const (
	// retryMirror is the pause after a broken watch or a failed read: long enough
	// not to press a store that is in trouble, short against how fast ranges fill.
	retryMirror = time.Second
	// rereadMirror is how long a hint can be wrong that no event corrects: a choice
	// stays marked when its write's result was unknown and turned out as not done.
	rereadMirror = 10 * time.Minute
	// rangesRoot is the folder of ServiceCIDRs' claims.
	rangesRoot = Root + string(ipam.CIDR) + "/"
	// refreshPause bounds what writers that find their range full cost the store.
	refreshPause = time.Second
)

// Mirror keeps hints near the truth by watching the claims.
type Mirror struct {
	client *kubernetes.Client
	hints  []Hints
	done   chan struct{}

	mu   sync.Mutex // guards the following, and the order of changes to hints
	read time.Time  // when the claims were read last
	rev  int64      // and at which revision: older events are known
}

// StartMirror reads the claims, then follows them until ctx ends.
func StartMirror(ctx context.Context, c *kubernetes.Client, hints ...Hints) (*Mirror, error) {
	m := &Mirror{client: c, hints: hints, done: make(chan struct{})}
	if err := m.Reread(ctx); err != nil {
		return nil, err
	}
	go m.run(ctx)
	return m, nil
}

// Wait blocks until the mirror has ended.
func (m *Mirror) Wait() { <-m.done }

// Refresh reads the claims now, unless that was done a moment ago, and reports
// whether it did.
func (m *Mirror) Refresh(ctx context.Context) (bool, error) {
	m.mu.Lock()
	recent := time.Since(m.read) < refreshPause
	m.mu.Unlock()
	if recent {
		return false, nil
	}
	err := m.Reread(ctx)
	return err == nil, err
}

func (m *Mirror) run(ctx context.Context) {
	defer close(m.done)
	for {
		m.follow(ctx)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryMirror):
			}
			if m.Reread(ctx) == nil {
				break
			}
		}
	}
}

// Reread makes the hints anew from the store.
func (m *Mirror) Reread(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp, err := m.client.KV.Get(ctx, Root, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("read the claims on addresses and ports: %w", err)
	}
	for _, h := range m.hints {
		h.Replace(func(yield func(string) bool) {
			for _, kv := range resp.Kvs {
				if !yield(strings.TrimPrefix(string(kv.Key), Root)) {
					return
				}
			}
		})
	}
	m.read, m.rev = time.Now(), resp.Header.Revision
	return nil
}

// follow applies changes since the last reading until the watch breaks or it is time to
// read all again.
func (m *Mirror) follow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, rereadMirror)
	defer cancel()
	m.mu.Lock()
	from := m.rev + 1
	m.mu.Unlock()
	for resp := range m.client.Watcher.Watch(ctx, Root, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if resp.Err() != nil {
			return // compacted or cancelled
		}
		// Of a range that is new nobody knows what is taken in it already.
		if m.apply(resp.Events) && m.Reread(ctx) != nil {
			return
		}
	}
}

// apply reports whether a range was added.
func (m *Mirror) apply(events []*clientv3.Event) (rangeAdded bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ev := range events {
		if ev.Kv.ModRevision <= m.rev {
			continue
		}
		rangeAdded = rangeAdded || ev.Type == mvccpb.Event_PUT && strings.HasPrefix(string(ev.Kv.Key), rangesRoot)
		claim := ipam.Claim{Key: strings.TrimPrefix(string(ev.Kv.Key), Root), Owner: types.UID(ev.Kv.Value)}
		for _, h := range m.hints {
			if ev.Type == mvccpb.Event_DELETE {
				h.Free(claim)
			} else {
				h.Mark(claim)
			}
		}
	}
	return rangeAdded
}
