package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// RevisionBump is added to the store's revision: more than could have been written after
// the snapshot, so that no revision that a client remembers comes a second time for
// something else. etcd recommends this number. What is older counts as compacted, which
// ends watches that would go on from there.
const RevisionBump = 1_000_000_000

// Member is what the restored member is called.
type Member struct{ Name, PeerURL string }

// workDir is where a restore works, beside the folders that it makes.
const workDir = "etcd.restoring"

// segment is the size of the log's first file (wal.SegmentSizeBytes), and room to spare.
const segment = 2 * 64 << 20

// Restore makes the store and the keys of dataDir from the snapshot in file. It checks
// all before it writes anything, and leaves nothing when it fails. storeFormat is the
// newest that this program knows.
func Restore(file, dataDir string, member Member, storeFormat int) (_ *Content, err error) {
	content, err := check(file, dataDir, storeFormat)
	if err != nil {
		return nil, err
	}
	work := filepath.Join(dataDir, workDir)
	if err := os.RemoveAll(work); err != nil { // of a restore that was interrupted
		return nil, fmt.Errorf("clear the work folder: %w", err)
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, fmt.Errorf("make the work folder: %w", err)
	}
	defer func() {
		if rmErr := os.RemoveAll(work); err == nil && rmErr != nil {
			err = fmt.Errorf("the store is restored, but the work folder is left: %w", rmErr)
		}
	}()
	db, store := filepath.Join(work, dbFile), filepath.Join(work, "etcd")
	if err := extract(file, db); err != nil {
		return nil, err
	}
	err = etcdsnapshot.NewV3(zap.NewNop()).Restore(etcdsnapshot.RestoreConfig{
		SnapshotPath: db, OutputDataDir: store, Name: member.Name,
		PeerURLs: []string{member.PeerURL}, InitialCluster: member.Name + "=" + member.PeerURL, InitialClusterToken: "etcd-cluster",
		RevisionBump: RevisionBump, MarkCompacted: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make the store from the snapshot: %w", err)
	}
	if err := writeKeys(filepath.Join(dataDir, keysDir), content.Keys); err != nil {
		return nil, err
	}
	// The store comes last: with it the data directory is whole.
	if err := os.Rename(store, filepath.Join(dataDir, "etcd")); err != nil {
		return nil, fmt.Errorf("put the store in its place: %w", err)
	}
	return content, syncDir(dataDir)
}

// check finds all that is wrong before anything is written.
func check(file, dataDir string, storeFormat int) (*Content, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	content, err := Read(in, io.Discard)
	if err != nil {
		return nil, err
	}
	if content.Meta.StoreFormat > storeFormat {
		return nil, fmt.Errorf("its store has format %d and this Portico knows formats up to %d: version %s wrote it; restore it with that version or a newer one", content.Meta.StoreFormat, storeFormat, content.Meta.Version)
	}
	switch entries, err := os.ReadDir(filepath.Join(dataDir, "etcd")); {
	case err == nil && len(entries) > 0:
		return nil, fmt.Errorf("%s holds a store already; choose an empty --data-dir, or move %[1]s/etcd away", dataDir)
	case err == nil:
		if err := os.Remove(filepath.Join(dataDir, "etcd")); err != nil { // a rename wants it gone
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for name, want := range content.Keys {
		is, err := os.ReadFile(filepath.Join(dataDir, keysDir, name))
		if err == nil && !bytes.Equal(is, want) {
			return nil, fmt.Errorf("%s/%s/%s is another cluster's; choose an empty --data-dir, or move %[1]s/%[2]s away", dataDir, keysDir, name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(existing(dataDir), &s); err == nil {
		if free, need := int64(s.Bavail)*s.Frsize, 2*content.DBSize+segment; free < need {
			return nil, fmt.Errorf("%s has %d MB free, and a restore takes %d MB; make room", dataDir, free>>20, need>>20)
		}
	}
	return content, nil
}

// existing is the nearest folder above dir that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func extract(file, db string) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(db, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make a copy of the database: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = Read(in, out)
	return err
}

// writeKeys writes what is missing; check has seen that the rest is the same.
func writeKeys(dir string, keys Keys) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of the keys: %w", err)
	}
	for name, content := range keys {
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return fmt.Errorf("write the cluster's keys: %w", err)
		}
	}
	return syncDir(dir)
}

func writeFile(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
