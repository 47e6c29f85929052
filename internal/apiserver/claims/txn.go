package claims

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
	// require are the keys of claims that must be there, whoever has them.
	require []string
	// unknown is set by the client: the store never said how the write ended.
	unknown bool
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

// goneError says that a claim which the write required is gone. It doesn't leave this
// package either.
type goneError struct{ key string }

func (e *goneError) Error() string { return e.key + " is gone" }

// client is the etcd client of a claiming resource. It replaces the two writes of
// kubernetes.Interface by transactions that include the intent of the context.
type client struct {
	kubernetes.Interface
	kv     clientv3.KV
	prefix string // of claim keys, with a final slash
	logger *slog.Logger
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
	txn, refused, err := c.commit(ctx, key, rev, in, []clientv3.Op{put})
	if err != nil {
		return c.resolvePut(ctx, key, value, rev, kubernetes.PutResponse{}, err)
	}
	if refused != nil {
		return kubernetes.PutResponse{}, refused
	}
	return kubernetes.PutResponse{Succeeded: txn.Succeeded, Revision: txn.Header.Revision, KV: objectOf(txn)}, nil
}

// OptimisticDelete removes the object and its claims in one transaction.
func (c *client) OptimisticDelete(ctx context.Context, key string, rev int64, opts kubernetes.DeleteOptions) (kubernetes.DeleteResponse, error) {
	in := intentFrom(ctx)
	if in == nil || len(in.remove) == 0 {
		resp, err := c.Interface.OptimisticDelete(ctx, key, rev, opts)
		return c.resolveDelete(ctx, key, resp, err)
	}
	txn, _, err := c.commit(ctx, key, rev, in, []clientv3.Op{clientv3.OpDelete(key)})
	if err != nil {
		return c.resolveDelete(ctx, key, kubernetes.DeleteResponse{}, err)
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

// commit runs then, and the changes of claims, if the object is at rev, every added
// claim is free, none of its rivals is there, and every required one is. A refusal that comes from a claim is
// a takenError or a goneError.
//
// Only corruption can make a claim to remove vanish before its object, or leave a
// claim to add in the owner's hands already. Neither may block the write for ever:
// such claims are left out of a second try.
func (c *client) commit(ctx context.Context, key string, rev int64, in *intent, then []clientv3.Op) (_ *clientv3.TxnResponse, refused, _ error) {
	add, remove := in.add, in.remove
	for {
		resp, err := c.txn(ctx, key, rev, in.owner, add, remove, in.require, then)
		if err != nil || resp.Succeeded || objectMoved(resp, rev) {
			return resp, nil, err
		}
		held := holders(resp)
		for i, span := range ipam.Rivals(add, remove) {
			if h := held[len(add)+len(remove)+len(in.require)+i]; h.held {
				return resp, &takenError{claim: span.Claim, owner: h.owner}, nil
			}
		}
		for i, key := range in.require {
			if !held[len(add)+len(remove)+i].held {
				return resp, &goneError{key}, nil
			}
		}
		var free, own []ipam.Claim
		for i, claim := range add {
			switch h := held[i]; {
			case !h.held:
				free = append(free, claim)
			case h.owner != in.owner:
				return resp, &takenError{claim: claim, owner: h.owner}, nil
			}
		}
		for i, claim := range remove {
			if h := held[len(add)+i]; h.held && h.owner == in.owner {
				own = append(own, claim)
			}
		}
		if len(free)+len(own) == len(add)+len(remove) {
			// The comparisons and the reads are of one revision: this can't be.
			return nil, nil, fmt.Errorf("the store refused the write of %s, though nothing stands against it", key)
		}
		c.logger.WarnContext(ctx, "claims and objects don't agree; the write goes on without what differs",
			"key", key, "owner", in.owner, "claims", len(add)+len(remove)-len(free)-len(own))
		add, remove = free, own
	}
}

// txn is one attempt. When refused, it reads the object and then each claim.
func (c *client) txn(ctx context.Context, key string, rev int64, owner string, add, remove []ipam.Claim, require []string, then []clientv3.Op) (*clientv3.TxnResponse, error) {
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", rev)}
	otherwise := []clientv3.Op{clientv3.OpGet(key)}
	ops := slices.Clone(then)
	for _, claim := range add {
		at := c.key(claim)
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(at), "=", 0))
		otherwise = append(otherwise, clientv3.OpGet(at))
		ops = append(ops, clientv3.OpPut(at, owner))
	}
	for _, claim := range remove {
		at := c.key(claim)
		conditions = append(conditions, clientv3.Compare(clientv3.Value(at), "=", owner))
		otherwise = append(otherwise, clientv3.OpGet(at))
		ops = append(ops, clientv3.OpDelete(at))
	}
	for _, claim := range require {
		at := c.prefix + claim
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(at), ">", 0))
		otherwise = append(otherwise, clientv3.OpGet(at))
	}
	for _, span := range ipam.Rivals(add, remove) {
		from, to := c.prefix+span.From, c.prefix+span.To
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(from), "=", 0).WithRange(to))
		otherwise = append(otherwise, clientv3.OpGet(from, clientv3.WithRange(to), clientv3.WithLimit(1)))
	}
	return c.kv.Txn(ctx).If(conditions...).Then(ops...).Else(otherwise...).Commit()
}

// objectMoved reads the first answer of an Else branch: is the object at another
// revision than the write expected?
func objectMoved(resp *clientv3.TxnResponse, rev int64) bool {
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		return kvs[0].ModRevision != rev
	}
	return rev != 0
}

// holder is who has a claim, if anybody has.
type holder struct {
	held  bool
	owner string
}

// holders reads the other answers.
func holders(resp *clientv3.TxnResponse) []holder {
	list := make([]holder, len(resp.Responses)-1)
	for i := range list {
		if kvs := resp.Responses[i+1].GetResponseRange().Kvs; len(kvs) == 1 {
			list[i] = holder{true, string(kvs[0].Value)}
		}
	}
	return list
}

// resolvePut finds out how a put ended whose answer got lost, by reading the key.
// Our bytes at a newer revision mean success. Anything else is not final, the
// proposal may still be committed: the client is told to look (ALLOC-03).
func (c *client) resolvePut(ctx context.Context, key string, value []byte, rev int64, resp kubernetes.PutResponse, err error) (kubernetes.PutResponse, error) {
	if err == nil || !unknownResult(err) {
		return resp, err
	}
	got, readErr := c.read(ctx, key)
	if readErr == nil && got.KV != nil && got.KV.ModRevision > rev && bytes.Equal(got.KV.Value, value) {
		return kubernetes.PutResponse{Succeeded: true, Revision: got.KV.ModRevision}, nil
	}
	return kubernetes.PutResponse{}, unknown(ctx, err)
}

// resolveDelete does the same for a delete: it was done, by us or somebody else, if
// the key is gone.
func (c *client) resolveDelete(ctx context.Context, key string, resp kubernetes.DeleteResponse, err error) (kubernetes.DeleteResponse, error) {
	if err == nil || !unknownResult(err) {
		return resp, err
	}
	if got, readErr := c.read(ctx, key); readErr == nil && got.KV == nil {
		return kubernetes.DeleteResponse{Succeeded: true, Revision: got.Revision}, nil
	}
	return kubernetes.DeleteResponse{}, unknown(ctx, err)
}

// read is linearizable, and independent of a request that was given up.
func (c *client) read(ctx context.Context, key string) (kubernetes.GetResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	return c.Interface.Get(ctx, key, kubernetes.GetOptions{})
}

// unknown notes in the intent that the result isn't known, and makes the answer. It
// names no time after which to try again: clients would repeat the write by
// themselves, which is only theirs to decide.
func unknown(ctx context.Context, err error) error {
	if in := intentFrom(ctx); in != nil {
		in.unknown = true
	}
	return apierrors.NewTimeoutError(
		fmt.Sprintf("the store did not say whether the write was done (%v); read the object before you try again", err), 0)
}

// unknownResult tells errors after which the write may or may not be done: all but
// those by which etcd refuses a request before it proposes or applies it.
func unknownResult(err error) bool {
	code := status.Code(err)
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) { // which isn't a gRPC status any more
		code = refused.Code()
	}
	switch code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.ResourceExhausted,
		codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return false
	}
	return true
}
