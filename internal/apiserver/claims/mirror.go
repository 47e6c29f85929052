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
}

// StartMirror reads the claims, then follows them until ctx ends.
func StartMirror(ctx context.Context, c *kubernetes.Client, hints ...Hints) (*Mirror, error) {
	m := &Mirror{client: c, hints: hints, done: make(chan struct{})}
	rev, err := m.readAll(ctx)
	if err != nil {
		return nil, err
	}
	go m.run(ctx, rev)
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
	_, err := m.readAll(ctx)
	return err == nil, err
}

func (m *Mirror) run(ctx context.Context, rev int64) {
	defer close(m.done)
	for {
		m.follow(ctx, rev+1)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryMirror):
			}
			var err error
			if rev, err = m.readAll(ctx); err == nil {
				break
			}
		}
	}
}

// readAll makes the hints anew. It holds the lock while it reads, so that no event
// older than what it reads is applied after.
func (m *Mirror) readAll(ctx context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp, err := m.client.KV.Get(ctx, Root, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, fmt.Errorf("read the claims on addresses and ports: %w", err)
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
	m.read = time.Now()
	return resp.Header.Revision, nil
}

// follow applies changes from revision rev on until the watch breaks or it is time to
// read all again.
func (m *Mirror) follow(ctx context.Context, rev int64) {
	ctx, cancel := context.WithTimeout(ctx, rereadMirror)
	defer cancel()
	for resp := range m.client.Watcher.Watch(ctx, Root, clientv3.WithPrefix(), clientv3.WithRev(rev)) {
		if resp.Err() != nil {
			return // compacted or cancelled
		}
		m.apply(resp.Events)
	}
}

func (m *Mirror) apply(events []*clientv3.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ev := range events {
		claim := ipam.Claim{Key: strings.TrimPrefix(string(ev.Kv.Key), Root), Owner: types.UID(ev.Kv.Value)}
		for _, h := range m.hints {
			if ev.Type == mvccpb.Event_DELETE {
				h.Free(claim)
			} else {
				h.Mark(claim)
			}
		}
	}
}
