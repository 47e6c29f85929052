package etcd

import (
	"context"
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
