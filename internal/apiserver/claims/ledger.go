package claims

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/core/ipam"
)

// Ledger are the claims as they are stored, for those who check and repair them. All
// that writes objects goes by Store.
type Ledger struct {
	client *kubernetes.Client
	folder func(schema.GroupResource) string
}

// NewLedger reads and repairs by a client; folder says where objects of a resource are
// stored below etcd.Prefix.
func NewLedger(c *kubernetes.Client, folder func(schema.GroupResource) string) *Ledger {
	return &Ledger{client: c, folder: folder}
}

// List reads all claims, linearizably: it misses none that was granted before.
func (l *Ledger) List(ctx context.Context) ([]ipam.Held, error) {
	resp, err := l.client.KV.Get(ctx, Root, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read the claims on addresses and ports: %w", err)
	}
	held := make([]ipam.Held, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		key := strings.TrimPrefix(string(kv.Key), Root)
		kind, _, _ := strings.Cut(key, "/")
		held[i] = ipam.Held{Claim: ipam.Claim{Kind: ipam.Kind(kind), Key: key, Owner: types.UID(kv.Value)}, Revision: kv.ModRevision}
	}
	return held, nil
}

// Repair changes one claim if it, and the objects that the repair concerns, are still as
// they were read, and reports whether it did.
func (l *Ledger) Repair(ctx context.Context, r ipam.Repair) (bool, error) {
	key := Root + r.Key
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", r.Revision)}
	for _, holder := range r.If {
		rev, err := strconv.ParseInt(holder.ResourceVersion, 10, 64)
		if err != nil {
			return false, fmt.Errorf("repair the claim %s: version of %s: %w", r.Key, holder, err)
		}
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(l.keyOf(holder)), "=", rev))
	}
	op := clientv3.OpDelete(key)
	if r.Owner != "" {
		op = clientv3.OpPut(key, string(r.Owner))
	}
	resp, err := l.client.KV.Txn(ctx).If(conditions...).Then(op).Commit()
	if err != nil {
		return false, fmt.Errorf("repair the claim %s: %w", r.Key, err)
	}
	return resp.Succeeded, nil
}

// keyOf is where an object is stored.
func (l *Ledger) keyOf(h *ipam.Holder) string {
	parts := []string{etcd.Prefix, l.folder(h.Resource)}
	if h.Namespace != "" {
		parts = append(parts, h.Namespace)
	}
	return strings.Join(append(parts, h.Name), "/")
}
