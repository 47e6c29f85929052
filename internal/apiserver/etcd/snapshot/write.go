package snapshot

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of an archive.
const (
	metaFile = "portico-snapshot.json"
	dbFile   = "etcd.db"
	sumsFile = "SHA256SUMS"
	keysDir  = "pki"
)

// keyFiles are the files of pki that a cluster can't do without.
var keyFiles = []string{"ca.crt", "ca.key", "sa.key"}

// format is the version of the archive.
const format = 1

// Meta describes a snapshot.
type Meta struct {
	Format      int       `json:"format"`
	StoreFormat int       `json:"storeFormat"` // etcd.Format of the program that wrote it
	Version     string    `json:"version"`     // of that program
	Created     time.Time `json:"created"`
	Revision    int64     `json:"revision"` // of the store
}

// Database is a database at one moment.
type Database interface {
	Size() int64
	WriteTo(w io.Writer) (int64, error)
}

// Keys are the contents of the key files, by name.
type Keys map[string][]byte

// ReadKeys reads the keys of a data directory.
func ReadKeys(dataDir string) (Keys, error) {
	keys := Keys{}
	for _, name := range keyFiles {
		raw, err := os.ReadFile(filepath.Join(dataDir, keysDir, name))
		if err != nil {
			return nil, fmt.Errorf("read the cluster's keys: %w", err)
		}
		keys[name] = raw
	}
	return keys, nil
}

// Write writes an archive.
func Write(w io.Writer, meta Meta, keys Keys, db Database) error {
	meta.Format = format
	about, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return fmt.Errorf("describe the snapshot: %w", err)
	}
	a := &archive{tar: tar.NewWriter(w), at: meta.Created}
	if err := a.bytes(metaFile, append(about, '\n')); err != nil {
		return err
	}
	for _, name := range keyFiles {
		if err := a.bytes(keysDir+"/"+name, keys[name]); err != nil {
			return err
		}
	}
	if err := a.database(db); err != nil {
		return err
	}
	if err := a.bytes(sumsFile, []byte(a.sums.String())); err != nil {
		return err
	}
	if err := a.tar.Close(); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}

// archive is a tar file under way.
type archive struct {
	tar  *tar.Writer
	at   time.Time
	sums strings.Builder
}

// begin starts a file; the sum of what is written to it is noted by end.
func (a *archive) begin(name string, size int64) (io.Writer, hash.Hash, error) {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: int64(fs.FileMode(0o600)), ModTime: a.at.Truncate(time.Second)}
	if err := a.tar.WriteHeader(header); err != nil {
		return nil, nil, fmt.Errorf("write %s of the snapshot: %w", name, err)
	}
	sum := sha256.New()
	return io.MultiWriter(a.tar, sum), sum, nil
}

func (a *archive) end(name string, sum hash.Hash) {
	fmt.Fprintf(&a.sums, "%x  %s\n", sum.Sum(nil), name)
}

func (a *archive) bytes(name string, content []byte) error {
	w, sum, err := a.begin(name, int64(len(content)))
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("write %s of the snapshot: %w", name, err)
	}
	a.end(name, sum)
	return nil
}

func (a *archive) database(db Database) error {
	w, sum, err := a.begin(dbFile, db.Size()+sha256.Size)
	if err != nil {
		return err
	}
	own := sha256.New() // etcd's, of the database alone
	_, err = db.WriteTo(io.MultiWriter(w, own))
	if err == nil {
		_, err = w.Write(own.Sum(nil))
	}
	if err != nil {
		return fmt.Errorf("write %s of the snapshot: %w", dbFile, err)
	}
	a.end(dbFile, sum)
	return nil
}
