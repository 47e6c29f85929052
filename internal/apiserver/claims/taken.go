package claims

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"

	"portico.dev/portico/internal/core/ipam"
)

// Taken gives the key of the first claim that another object than its owner holds,
// "" when there is none. Only a dry run asks: a write finds out by writing.
func Taken(ctx context.Context, c *kubernetes.Client, list []ipam.Claim) (string, error) {
	if len(list) == 0 {
		return "", nil
	}
	reads := make([]clientv3.Op, len(list))
	for i, claim := range list {
		reads[i] = clientv3.OpGet(Root + claim.Key)
	}
	resp, err := c.KV.Txn(ctx).Then(reads...).Commit()
	if err != nil {
		return "", fmt.Errorf("read claims on addresses and ports: %w", err)
	}
	for i, claim := range list {
		kvs := resp.Responses[i].GetResponseRange().Kvs
		if len(kvs) == 1 && string(kvs[0].Value) != string(claim.Owner) {
			return claim.Key, nil
		}
	}
	return "", nil
}
