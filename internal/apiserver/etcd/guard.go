package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	// writeTimeout bounds one write. etcd gives up after 5 s and two elections (7 s by
	// default), so it is only reached where no member answers at all.
	writeTimeout = 10 * time.Second
	// readTimeout bounds one read with the client's own tries on other members, below
	// the minute that a request has. Lists of many megabytes come in such reads too.
	readTimeout = 30 * time.Second
)

// allow says whether a write may go on that adds so many bytes to the store; 0: it deletes.
type allow func(adds int) error

// guardedKV bounds calls in time, asks before writes, and explains refusals.
type guardedKV struct {
	clientv3.KV
	allow allow
}

func (g guardedKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := g.KV.Get(bounded, key, opts...)
	return resp, explain(ctx, err, false)
}

func (g guardedKV) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	if err := g.allow(len(key) + len(value)); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	resp, err := g.KV.Put(bounded, key, value, opts...)
	return resp, explain(ctx, err, true)
}

func (g guardedKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	if err := g.allow(0); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	resp, err := g.KV.Delete(bounded, key, opts...)
	return resp, explain(ctx, err, true)
}

func (g guardedKV) Txn(ctx context.Context) clientv3.Txn {
	bounded, cancel := context.WithTimeout(ctx, writeTimeout)
	return &guardedTxn{Txn: g.KV.Txn(bounded), ctx: ctx, cancel: cancel, allow: g.allow}
}

// guardedTxn is a transaction, which may only read.
type guardedTxn struct {
	clientv3.Txn
	ctx    context.Context
	cancel context.CancelFunc
	allow  allow
	writes bool
	adds   int // bytes
}

func (t *guardedTxn) If(conditions ...clientv3.Cmp) clientv3.Txn {
	t.Txn = t.Txn.If(conditions...)
	return t
}

func (t *guardedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.look(ops)
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t *guardedTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.look(ops)
	t.Txn = t.Txn.Else(ops...)
	return t
}

func (t *guardedTxn) look(ops []clientv3.Op) {
	for _, op := range ops {
		if op.IsPut() {
			t.adds += len(op.KeyBytes()) + len(op.ValueBytes())
		}
		t.writes = t.writes || op.IsPut() || op.IsDelete()
	}
}

func (t *guardedTxn) Commit() (*clientv3.TxnResponse, error) {
	defer t.cancel()
	if t.writes {
		if err := t.allow(t.adds); err != nil {
			return nil, err
		}
	}
	resp, err := t.Txn.Commit()
	return resp, explain(t.ctx, err, t.writes)
}

// leaseBytes is what a lease takes in the store, about.
const leaseBytes = 64

// guardedLease asks before it makes a lease, with which events are written.
type guardedLease struct {
	clientv3.Lease
	allow allow
}

func (g guardedLease) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	if err := g.allow(leaseBytes); err != nil {
		return nil, err
	}
	resp, err := g.Lease.Grant(ctx, ttl)
	return resp, explain(ctx, err, true)
}

const (
	// watchRate and watchBurst bound how fast one client begins watches. A watch ends at
	// once while etcd has no leader, and the watch cache begins the next without a pause
	// for 30 s (the cacher's MaxInternalErrorRetryDuration): thousands a second, by which
	// an etcd that is short of members is kept from recovering.
	watchRate  = 2
	watchBurst = 5
)

// pacedWatcher begins watches not too fast.
type pacedWatcher struct {
	clientv3.Watcher
	limiter flowcontrol.RateLimiter
}

func newPacedWatcher(w clientv3.Watcher) clientv3.Watcher {
	return pacedWatcher{w, flowcontrol.NewTokenBucketRateLimiter(watchRate, watchBurst)}
}

func (p pacedWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	_ = p.limiter.Wait(ctx) // if ctx ends, the watch says so
	return p.Watcher.Watch(ctx, key, opts...)
}
