package etcd

import (
	"context"
	"fmt"
	"reflect"
	"strconv"

	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// revisions is a Source that knows what was written without asking anybody. Only a store
// of one member in this process can.
type revisions interface {
	// revision is that of the last write of key which was acknowledged before the call, or
	// of a later one; 0 where there is no such key.
	revision(ctx context.Context, key string) (int64, error)
}

var _ revisions = (*Embedded)(nil)

// revision reads the index that etcd keeps in memory. The one member applies a write before
// it acknowledges it, so that no round of raft is needed to see it: the member has nobody
// to ask. What was applied was written to its log first.
func (e *Embedded) revision(ctx context.Context, key string) (int64, error) {
	found, err := e.server.Server.KV().Range(ctx, []byte(key), nil, mvcc.RangeOptions{FastKeysOnly: true})
	if err != nil {
		return 0, fmt.Errorf("read the revision of %s: %w", key, err)
	}
	if len(found.KVs) == 0 {
		return 0, nil
	}
	return found.KVs[0].ModRevision, nil
}

// Newest fills into with the object of that kind at key, a path below Prefix, if its watch
// cache holds what a read of the store would give: the last version of those that were
// acknowledged before the call, or a later one. Parts of the object are the cache's own:
// nobody may change them. false: the store must be asked, because it isn't in this
// process, the cache is behind, or there is no such object.
func (o *Options) Newest(ctx context.Context, key string, into runtime.Object) bool {
	store, ok := o.Source.(revisions)
	if !ok {
		return false
	}
	o.held.mu.RLock()
	kind, ok := o.held.caches[reflect.TypeOf(into)]
	o.held.mu.RUnlock()
	if !ok || !kind.cache.Ready() {
		return false
	}
	// The revision first: then the cache can only be newer than what was asked for.
	revision, err := store.revision(ctx, Prefix+key)
	if err != nil || revision == 0 {
		return false
	}
	if err := kind.cache.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, into); err != nil {
		return false
	}
	found, err := meta.Accessor(into)
	if err != nil {
		return false
	}
	held, err := strconv.ParseInt(found.GetResourceVersion(), 10, 64)
	return err == nil && held >= revision
}
