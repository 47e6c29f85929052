package claims

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"portico.dev/portico/internal/core/ipam"
)

// resolveTimeout bounds the read that finds out how a write of unknown result
// ended. It must outlast an etcd leader election (about 1 s by default).
const resolveTimeout = 3 * time.Second

// intent is what one attempt to write an object adds to and removes from the
// claims. The Store fills it at each attempt, the client below reads it.
type intent struct {
	owner  string // UID
	add    []ipam.Claim
	remove []ipam.Claim
}

type intentKey struct{}

func withIntent(ctx context.Context) (context.Context, *intent) {
	in := &intent{}
	return context.WithValue(ctx, intentKey{}, in), in
}

func intentFrom(ctx context.Context) *intent {
	in, _ := ctx.Value(intentKey{}).(*intent)
	return in
}

// takenError says that another object holds a claim. It never leaves this package:
// the Store assigns again or turns it into what the API answers.
type takenError struct {
	claim ipam.Claim
	owner string
}

func (e *takenError) Error() string {
	return fmt.Sprintf("%s is held by object %s", e.claim.Key, e.owner)
}

// client is the etcd client of a claiming resource. It replaces the two writes of
// kubernetes.Interface by transactions that include the intent of the context.
type client struct {
	kubernetes.Interface
	kv     clientv3.KV
	prefix string // of claim keys, with a final slash
}

func (c *client) key(claim ipam.Claim) string { return c.prefix + claim.Key }

// OptimisticPut writes the object and its claims in one transaction.
func (c *client) OptimisticPut(ctx context.Context, key string, value []byte, rev int64, opts kubernetes.PutOptions) (kubernetes.PutResponse, error) {
	in := intentFrom(ctx)
	if in == nil || len(in.add)+len(in.remove) == 0 {
		resp, err := c.Interface.OptimisticPut(ctx, key, value, rev, opts)
		return c.resolvePut(ctx, key, value, rev, resp, err)
	}
	put := clientv3.OpPut(key, string(value), clientv3.WithLease(opts.LeaseID))
	txn, taken, err := c.commit(ctx, key, rev, in, []clientv3.Op{put})
	if err != nil {
		return c.resolvePut(ctx, key, value, rev, kubernetes.PutResponse{}, err)
	}
	if taken != nil {
		return kubernetes.PutResponse{}, taken
	}
	return kubernetes.PutResponse{Succeeded: txn.Succeeded, Revision: txn.Header.Revision, KV: objectOf(txn)}, nil
}

// OptimisticDelete removes the object and its claims in one transaction.
func (c *client) OptimisticDelete(ctx context.Context, key string, rev int64, opts kubernetes.DeleteOptions) (kubernetes.DeleteResponse, error) {
	in := intentFrom(ctx)
	if in == nil || len(in.remove) == 0 {
		return c.Interface.OptimisticDelete(ctx, key, rev, opts)
	}
	txn, _, err := c.commit(ctx, key, rev, in, []clientv3.Op{clientv3.OpDelete(key)})
	if err != nil {
		return kubernetes.DeleteResponse{}, err
	}
	return kubernetes.DeleteResponse{Succeeded: txn.Succeeded, Revision: txn.Header.Revision, KV: objectOf(txn)}, nil
}

// objectOf is the object as a refused transaction found it; nil when it is absent.
func objectOf(txn *clientv3.TxnResponse) *mvccpb.KeyValue {
	if txn.Succeeded {
		return nil
	}
	if kvs := txn.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		return kvs[0]
	}
	return nil
}

// commit runs then, and the changes of claims, if the object is at rev and every
// added claim is free. When it is refused it also says which claim was taken.
//
// Only corruption can make a claim to remove vanish before its object, or leave a
// claim to add in the owner's hands already. Neither may block the write for ever:
// such claims are left out of a second try.
func (c *client) commit(ctx context.Context, key string, rev int64, in *intent, then []clientv3.Op) (*clientv3.TxnResponse, *takenError, error) {
	add, remove := in.add, in.remove
	for {
		conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", rev)}
		otherwise := []clientv3.Op{clientv3.OpGet(key)}
		ops := append([]clientv3.Op(nil), then...)
		for _, claim := range add {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(c.key(claim)), "=", 0))
			otherwise = append(otherwise, clientv3.OpGet(c.key(claim)))
			ops = append(ops, clientv3.OpPut(c.key(claim), in.owner))
		}
		for _, claim := range remove {
			conditions = append(conditions, clientv3.Compare(clientv3.Value(c.key(claim)), "=", in.owner))
			otherwise = append(otherwise, clientv3.OpGet(c.key(claim)))
			ops = append(ops, clientv3.OpDelete(c.key(claim)))
		}
		resp, err := c.kv.Txn(ctx).If(conditions...).Then(ops...).Else(otherwise...).Commit()
		if err != nil || resp.Succeeded {
			return resp, nil, err
		}
		if objectMoved(resp, rev) {
			return resp, nil, nil
		}
		owners := holders(resp)
		if taken := firstTaken(add, owners, in.owner); taken != nil {
			return resp, taken, nil
		}
		wanted := len(add) + len(remove)
		held := owners[len(add):]
		add = keep(add, owners, func(owner string) bool { return owner == "" })
		remove = keep(remove, held, func(owner string) bool { return owner == in.owner })
		if len(add)+len(remove) == wanted {
			return resp, nil, nil // it changed between compare and read: the store retries
		}
	}
}

// objectMoved reads the first answer of an Else branch: is the object at another
// revision than the write expected?
func objectMoved(resp *clientv3.TxnResponse, rev int64) bool {
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		return kvs[0].ModRevision != rev
	}
	return rev != 0
}

// holders reads the other answers: each claim's owner, "" when it is free.
func holders(resp *clientv3.TxnResponse) []string {
	owners := make([]string, len(resp.Responses)-1)
	for i := range owners {
		if kvs := resp.Responses[i+1].GetResponseRange().Kvs; len(kvs) == 1 {
			owners[i] = string(kvs[0].Value)
		}
	}
	return owners
}

func firstTaken(add []ipam.Claim, owners []string, self string) *takenError {
	for i, claim := range add {
		if owners[i] != "" && owners[i] != self {
			return &takenError{claim: claim, owner: owners[i]}
		}
	}
	return nil
}

func keep(claims []ipam.Claim, owners []string, want func(owner string) bool) []ipam.Claim {
	var kept []ipam.Claim
	for i, claim := range claims {
		if want(owners[i]) {
			kept = append(kept, claim)
		}
	}
	return kept
}

// resolvePut finds out how a put ended whose answer got lost, by reading the key.
// Our bytes at a newer revision mean success. Anything else is not final, the
// proposal may still be committed: the client is told to ask again (ALLOC-03).
func (c *client) resolvePut(ctx context.Context, key string, value []byte, rev int64, resp kubernetes.PutResponse, err error) (kubernetes.PutResponse, error) {
	if err == nil || !unknownResult(err) {
		return resp, err
	}
	readCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	got, readErr := c.Interface.Get(readCtx, key, kubernetes.GetOptions{})
	if readErr == nil && got.KV != nil && got.KV.ModRevision > rev && bytes.Equal(got.KV.Value, value) {
		return kubernetes.PutResponse{Succeeded: true, Revision: got.KV.ModRevision}, nil
	}
	return kubernetes.PutResponse{}, apierrors.NewTimeoutError(
		fmt.Sprintf("the store did not say whether the write was done (%v); read the object before you try again", err), 1)
}

// unknownResult tells errors after which the write may or may not be done.
func unknownResult(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return true
	}
	return false
}
