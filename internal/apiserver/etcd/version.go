package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// format counts the layouts of the store that an older binary would misread. Raise
// it, and convert what is older where Stamp says so, when keys move or the stored
// form of a kind changes. New kinds and new fields don't count.
const format = 1

// versionKey holds the format, as a decimal number.
const versionKey = Prefix + "/portico/version"

// FormatError says that a newer Portico wrote the store.
type FormatError struct{ Found string }

func (e *FormatError) Error() string {
	return fmt.Sprintf("the store has format %q and this Portico knows formats up to %d: a newer version wrote it; run that version, or restore a snapshot of this one's", e.Found, format)
}

// Stamp marks an empty store as ours, and refuses one that a newer version wrote. It
// must come before the first other read or write.
func Stamp(ctx context.Context, c *clientv3.Client) error {
	ours := strconv.Itoa(format)
	if err := checkForeign(ctx, c); err != nil {
		return err
	}
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(versionKey), "=", 0)).
		Then(clientv3.OpPut(versionKey, ours)).
		Else(clientv3.OpGet(versionKey)).
		Commit()
	if err != nil {
		return fmt.Errorf("read the store's format: %w", err)
	}
	if resp.Succeeded {
		return nil
	}
	found := string(resp.Responses[0].GetResponseRange().Kvs[0].Value)
	if n, err := strconv.Atoi(found); err != nil || n > format {
		return &FormatError{Found: found}
	}
	return nil // no older format was ever released: conversions go here
}

// ErrForeign says that something else keeps its objects where ours would be.
var ErrForeign = errors.New("etcd holds another cluster's objects below " + Prefix + "; choose an --etcd-prefix of this cluster's own, or an empty etcd")

// checkForeign looks for keys where there is no stamp. Stamping comes before all else,
// so they can't be ours.
func checkForeign(ctx context.Context, c *clientv3.Client) error {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(versionKey), "=", 0)).
		Then(clientv3.OpGet(Prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())).
		Commit()
	switch {
	case err != nil:
		return fmt.Errorf("read the store's format: %w", err)
	case resp.Succeeded && len(resp.Responses[0].GetResponseRange().Kvs) > 0:
		return ErrForeign
	}
	return nil
}

// identityKey holds what Identify was given first.
const identityKey = Prefix + "/portico/identity"

// ErrIdentity says that a store is another cluster's, or this server lacks its keys.
var ErrIdentity = errors.New("etcd belongs to a cluster with other keys; copy the folder pki from the data directory of one of its servers into this one's, or choose an --etcd-prefix of this cluster's own")

// Identify makes all servers of a store prove that they are of one cluster: identity is
// a digest of what they must share. It comes after Stamp.
func Identify(ctx context.Context, c *clientv3.Client, identity string) error {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(identityKey), "=", 0)).
		Then(clientv3.OpPut(identityKey, identity)).
		Else(clientv3.OpGet(identityKey)).
		Commit()
	if err != nil {
		return fmt.Errorf("read which cluster the store belongs to: %w", err)
	}
	if !resp.Succeeded && string(resp.Responses[0].GetResponseRange().Kvs[0].Value) != identity {
		return ErrIdentity
	}
	return nil
}
