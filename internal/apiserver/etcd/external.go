package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/utils/clock"
)

// ExternalConfig says where an etcd cluster is and how it is reached.
type ExternalConfig struct {
	Servers []*url.URL  // of its members, all http or all https
	TLS     *tls.Config // nil for http
	// Prefix comes before all keys, so that several clusters can share one etcd. It
	// begins with a slash and has none at its end; "" for none.
	Prefix string
	// Timeout is how long a start waits for the first answer.
	Timeout time.Duration
	Logger  *slog.Logger
}

// External is a store that other processes hold: an etcd cluster.
type External struct {
	config  ExternalConfig
	base    *clientv3.Client
	compact interface{ Stop() }

	mu      sync.Mutex // guards clients
	clients []*kubernetes.Client
}

const (
	// A member that is cut off is noticed by a ping after 10 s, which etcd allows
	// (its --grpc-keepalive-min-time is 5 s), and no answer for another 5.
	keepAliveEvery   = 10 * time.Second
	keepAliveTimeout = 5 * time.Second
	dialTimeout      = 5 * time.Second
)

// OpenExternal connects to the cluster once one of its members answers.
func OpenExternal(ctx context.Context, config ExternalConfig) (*External, error) {
	var endpoints []string
	for _, u := range config.Servers {
		endpoints = append(endpoints, u.String())
	}
	base, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: config.TLS,
		DialTimeout: dialTimeout, DialKeepAliveTime: keepAliveEvery, DialKeepAliveTimeout: keepAliveTimeout,
		// As kube-apiserver's: lists are bounded by the API, not by the message size.
		MaxCallSendMsgSize: 4 * mebibyte, MaxCallRecvMsgSize: 1 << 30,
		// Its warnings are of single tries; what they come to is in the answers.
		Logger:      zap.New(slogCore{config.Logger.With("part", "etcd client")}, zap.IncreaseLevel(zap.ErrorLevel)),
		DialOptions: []grpc.DialOption{grpc.WithUserAgent("portico")},
	})
	if err != nil {
		return nil, fmt.Errorf("make a client of etcd at %s: %w", strings.Join(endpoints, ","), err)
	}
	e := &External{config: config, base: base}
	if err := e.reach(ctx); err != nil {
		base.Close()
		return nil, err
	}
	if err := e.checkTxnOps(ctx); err != nil {
		base.Close()
		return nil, err
	}
	etcdfeature.DefaultFeatureSupportChecker.CheckClient(ctx, base, storage.RequestWatchProgress)
	// Servers that share the store agree on who compacts by a key of upstream's.
	e.compact = etcd3.NewCompactor(base, historyKept, clock.RealClock{}, nil)
	return e, nil
}

// always lets every write go on: whether there is room is the cluster's to say.
func always(int) error { return nil }

// Client makes one more client: streams of its own over the shared connections.
func (e *External) Client() (*kubernetes.Client, error) {
	c := clientv3.NewCtxClient(e.base.Ctx())
	kv, watcher, lease := clientv3.NewKV(e.base), clientv3.NewWatcher(e.base), clientv3.NewLease(e.base)
	if e.config.Prefix != "" {
		kv, watcher, lease = namespace.NewKV(kv, e.config.Prefix), namespace.NewWatcher(watcher, e.config.Prefix), namespace.NewLease(lease, e.config.Prefix)
	}
	c.KV = etcd3.NewETCDLatencyTracker(guardedKV{kv, always})
	c.Watcher = newPacedWatcher(watcher)
	c.Lease = guardedLease{lease, always}
	c.Cluster, c.Maintenance = clientv3.NewCluster(e.base), clientv3.NewMaintenance(e.base)
	out := &kubernetes.Client{Client: c}
	out.Kubernetes = out
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clients = append(e.clients, out)
	return out, nil
}

// Close ends all clients.
func (e *External) Close() {
	e.compact.Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.clients {
		_ = c.Close() // it only reports its own cancellation
	}
	e.clients = nil
	_ = e.base.Close() // likewise
}
