// Package durable replaces small files so that a power cut leaves the old content or
// the new one.
//
// In: a file's name and content. Out: the file, for its owner alone. It knows nothing
// of what the files mean; a lock of the caller's keeps other writers away.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile returns when the content is on the disk under that name. What a crash may
// leave is NAME.new, which the next WriteFile replaces.
func WriteFile(name string, content []byte) error {
	fresh := name + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return failed(name, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return failed(name, err)
	}
	if err := os.Rename(fresh, name); err != nil {
		return failed(name, err)
	}
	// The name is the folder's content (fsync(2)).
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return failed(name, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return failed(name, err)
	}
	return nil
}

// failed names the file that was to be written; an error of package os names another.
func failed(name string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("write %s: %w", name, err)
}
