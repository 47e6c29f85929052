package etcd

import (
	"context"
	"io"
	"time"

	"portico.dev/portico/internal/apiserver/etcd/snapshot"
)

// Save writes a snapshot of the store, as it is now, with the cluster's keys. Requests
// go on meanwhile. version is the program's.
func (e *Embedded) Save(ctx context.Context, w io.Writer, keys snapshot.Keys, version string) error {
	// It includes all that was acknowledged before: what isn't in the file yet is
	// committed first.
	db := e.server.Server.Backend().Snapshot()
	defer db.Close() //nolint:errcheck // it only ends a read
	meta := snapshot.Meta{StoreFormat: format, Version: version, Created: time.Now().UTC(), Revision: e.server.Server.KV().Rev()}
	return snapshot.Write(unlessDone{ctx, w}, meta, keys, db)
}

// unlessDone ends a long copy with its context.
type unlessDone struct {
	ctx context.Context
	io.Writer
}

func (w unlessDone) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// Restore makes the store and the keys of a data directory from a snapshot.
func Restore(file, dataDir string) (*snapshot.Content, error) {
	return snapshot.Restore(file, dataDir, snapshot.Member{Name: memberName, PeerURL: "http://" + memberHost}, format)
}
