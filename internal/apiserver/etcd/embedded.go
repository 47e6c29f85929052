package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
)

// maxTxnOps bounds the operations of one transaction: an object, at most 3 per
// claim (compare, put, get), and a Service of 250 node ports should still fit.
const maxTxnOps = 2048

// snapshotCount is after how many transactions the log in memory is cut: a few megabytes.
const snapshotCount = 2000

// When the database is committed at the latest: after a time, so many operations, or bytes. A
// transaction that meets a commit waits for its two syncs; at etcd's default of 100 ms
// that is one in twenty. What was acknowledged is safe before: a start reads it from the
// log. What bounds the time is what a start has to read, the operations bound a buffer that
// some reads copy, and the bytes must fit into what reserve has allotted.
const (
	commitEvery = 5 * time.Second
	commitOps   = 1000
	commitBytes = 8 * mebibyte
)

// quotaBytes is how large the database may grow; etcd's own advice is 8 GiB at most.
const quotaBytes = 8 << 30

// The one member of an embedded store. Both are only names in the membership.
const (
	memberName = "portico"
	memberHost = "localhost:2380"
)

// Embedded is the store of a stand-alone Portico: one etcd member in this process.
type Embedded struct {
	server *embed.Etcd
	space  *space
	stop   context.CancelFunc // of the maintenance
	group  sync.WaitGroup

	mu      sync.Mutex // guards clients
	clients []*kubernetes.Client
}

// progressEvery is how often a watch without events is told how far the store is, well within
// historyKept: at a revision that is compacted neither can it begin again, nor can the library
// compare a watch cache with the store.
const progressEvery = time.Minute

// settings are those that tests make small.
type settings struct {
	quota         int64
	commitEvery   time.Duration
	progressEvery time.Duration // of all stores of a process; 0: as it is
}

// StartEmbedded opens (or makes) the store in dir and waits until it can serve.
// The folder belongs to this process alone while it is open.
func StartEmbedded(ctx context.Context, dir string, logger *slog.Logger) (*Embedded, error) {
	return startEmbedded(ctx, dir, logger, settings{quota: quotaBytes, commitEvery: commitEvery, progressEvery: progressEvery})
}

func startEmbedded(ctx context.Context, dir string, logger *slog.Logger, set settings) (*Embedded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the store's folder: %w", err)
	}
	e := &Embedded{space: &space{
		dir: dir, logger: logger, quota: set.quota, poke: make(chan struct{}, 1), commit: make(chan struct{}, 1),
		statfs: func() int64 { return freeBytes(dir) },
	}}
	if err := e.space.checkStart(); err != nil {
		return nil, err
	}
	if err := checkDatabase(dir); err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Name = memberName
	cfg.Dir = dir
	// No listener: the one member talks to nobody, its clients are in-process. The
	// advertised URL is only a name in the membership.
	peer := url.URL{Scheme: "http", Host: memberHost}
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.ListenClientHttpUrls = nil, nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.MaxTxnOps = maxTxnOps
	cfg.QuotaBackendBytes = set.quota
	// The log of the last transactions stays in memory, for followers to catch up. One
	// member has none; a snapshot, which shortens the log, is some small writes.
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = snapshotCount, 1
	cfg.BackendBatchInterval, cfg.BackendBatchLimit = set.commitEvery, commitOps
	cfg.WatchProgressNotifyInterval = set.progressEvery
	// One member elects itself; the defaults make it wait a second for others.
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(slogCore{logger.With("part", "etcd")}))
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("open the store in %s: %w", dir, err)
	}
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		server.Close()
		return nil, fmt.Errorf("start the store in %s: %w", dir, err)
	case <-ctx.Done():
		server.Close()
		return nil, fmt.Errorf("start the store in %s: %w", dir, context.Cause(ctx))
	case <-time.After(time.Minute):
		server.Close()
		return nil, fmt.Errorf("start the store in %s: not ready after a minute; see the log above", dir)
	}
	e.server, e.space.size = server, server.Server.Backend().Size
	if err := e.space.reserve(); err != nil {
		server.Close()
		return nil, err
	}
	first, err := e.Client()
	if err != nil {
		return nil, err
	}
	maintain, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.group.Go(func() { (&maintenance{e: e}).run(maintain, time.Now) })
	e.group.Go(func() { e.commitLarge(maintain) })
	etcdfeature.DefaultFeatureSupportChecker.CheckClient(ctx, inProcess{first.Client}, storage.RequestWatchProgress)
	return e, nil
}

// commitLarge commits the database, until ctx ends, when large writes came.
func (e *Embedded) commitLarge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.space.commit:
			e.server.Server.Backend().ForceCommit()
		}
	}
}

// Client makes one more in-process client; Close ends them all.
func (e *Embedded) Client() (*kubernetes.Client, error) {
	c := &kubernetes.Client{Client: v3client.New(e.server.Server)}
	c.KV = etcd3.NewETCDLatencyTracker(guardedKV{c.KV, e.space.allow})
	c.Lease = guardedLease{c.Lease, e.space.allow}
	c.Kubernetes = c
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clients = append(e.clients, c)
	return c, nil
}

// Close ends the maintenance and the clients, then flushes and closes the store.
func (e *Embedded) Close() {
	e.stop()
	e.group.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.clients {
		_ = c.Close() // an in-process client only reports its own cancellation
	}
	e.clients = nil
	e.server.Close()
}

// inProcess lets the library ask the embedded server for its version, which it
// does per endpoint; an in-process client has none.
type inProcess struct{ *clientv3.Client }

func (inProcess) Endpoints() []string { return []string{"embedded"} }
