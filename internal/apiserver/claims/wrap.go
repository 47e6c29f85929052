package claims

import (
	"log/slog"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apiserver/pkg/storage"

	"portico.dev/portico/internal/apiserver/etcd"
)

// Root is the folder of all claims.
const Root = etcd.Prefix + "/portico/claims/"

// Wrap makes policy the layer under the watch cache of one resource.
func Wrap(policy Policy, logger *slog.Logger) etcd.Wrap {
	return func(c *kubernetes.Client, raw func(*kubernetes.Client) (storage.Interface, error)) (storage.Interface, error) {
		c.Kubernetes = &client{Interface: c.Kubernetes, kv: c.KV, prefix: Root, logger: logger}
		store, err := raw(c)
		if err != nil {
			return nil, err
		}
		return &Store{Interface: store, policy: policy}, nil
	}
}
