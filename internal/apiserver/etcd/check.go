package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// checkDatabase looks whether the database's head can be read: etcd itself panics in
// a goroutine of its own where it can't, which nobody can turn into an error.
func checkDatabase(dir string) error {
	file := filepath.Join(dir, "member", "snap", "db")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The lock is a data directory's, so nobody else has the file open.
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		return fmt.Errorf("the store %s is damaged (%w); restore the folder %s from a backup, or move it away to start with an empty store", file, err, dir)
	}
	return nil
}
