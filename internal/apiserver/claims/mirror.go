package claims

import (
	"context"
	"fmt"
	"iter"
	"strings"
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

// retryMirror is the pause after a failed watch: long enough not to press a store
// that is in trouble, short against how fast ranges fill.
const retryMirror = time.Second

// Mirror keeps hints near the truth until ctx ends, by watching the claims. It
// returns once it has read them for the first time; wait blocks until the watching
// has ended.
func Mirror(ctx context.Context, c *kubernetes.Client, hints ...Hints) (wait func(), err error) {
	rev, err := readAll(ctx, c, hints)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			follow(ctx, c, rev+1, hints)
			for ctx.Err() == nil {
				if rev, err = readAll(ctx, c, hints); err == nil {
					break
				}
				select {
				case <-ctx.Done():
				case <-time.After(retryMirror):
				}
			}
		}
	}()
	return func() { <-done }, nil
}

func readAll(ctx context.Context, c *kubernetes.Client, hints []Hints) (int64, error) {
	resp, err := c.KV.Get(ctx, Root, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, fmt.Errorf("read the claims on addresses and ports: %w", err)
	}
	for _, h := range hints {
		h.Replace(func(yield func(string) bool) {
			for _, kv := range resp.Kvs {
				if !yield(strings.TrimPrefix(string(kv.Key), Root)) {
					return
				}
			}
		})
	}
	return resp.Header.Revision, nil
}

// follow applies changes from revision rev on until the watch breaks.
func follow(ctx context.Context, c *kubernetes.Client, rev int64, hints []Hints) {
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range c.Watcher.Watch(watchCtx, Root, clientv3.WithPrefix(), clientv3.WithRev(rev)) {
		if resp.Err() != nil {
			return // compacted or cancelled: read all again
		}
		for _, ev := range resp.Events {
			claim := ipam.Claim{Key: strings.TrimPrefix(string(ev.Kv.Key), Root), Owner: types.UID(ev.Kv.Value)}
			for _, h := range hints {
				if ev.Type == mvccpb.Event_DELETE {
					h.Free(claim)
				} else {
					h.Mark(claim)
				}
			}
		}
	}
}
