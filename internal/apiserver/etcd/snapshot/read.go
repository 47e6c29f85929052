package snapshot

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrDamaged is of a file that isn't a whole snapshot.
var ErrDamaged = errors.New("it is not a whole snapshot")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// maxSmall bounds each file but the database.
const maxSmall = 1 << 20

// Content is what a snapshot holds beside its database.
type Content struct {
	Meta   Meta
	Keys   Keys
	DBSize int64 // with etcd's sum
}

// Read reads and checks a whole archive, and copies the database to db on the way; it
// is to be trusted only if there was no error.
func Read(r io.Reader, db io.Writer) (*Content, error) {
	c := &Content{Keys: Keys{}}
	var sums strings.Builder
	in := tar.NewReader(r)
	// The order is part of the format: so nothing can come twice or be missing.
	order := []string{metaFile}
	for _, name := range keyFiles {
		order = append(order, keysDir+"/"+name)
	}
	for _, name := range append(order, dbFile, sumsFile) {
		header, err := in.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, damaged("it ends before %s", name)
		case err != nil:
			return nil, damaged("no %s: %v", name, err)
		case header.Name != name || header.Typeflag != tar.TypeReg:
			return nil, damaged("it has %q where %s belongs", header.Name, name)
		case name != dbFile && header.Size > maxSmall:
			return nil, damaged("%s is too large", name)
		}
		if err := c.take(name, header.Size, in, db, &sums); err != nil {
			return nil, err
		}
	}
	if _, err := in.Next(); !errors.Is(err, io.EOF) {
		return nil, damaged("something follows %s", sumsFile)
	}
	return c, nil
}

// take reads one file, and adds its sum to sums or compares with them.
func (c *Content) take(name string, size int64, in io.Reader, db io.Writer, sums *strings.Builder) error {
	sum := sha256.New()
	var content bytes.Buffer
	to := io.Writer(&content)
	if name == dbFile {
		to, c.DBSize = db, size
	}
	into := &target{w: io.MultiWriter(to, sum)}
	if _, err := io.Copy(into, in); into.err != nil {
		return fmt.Errorf("copy %s of the snapshot: %w", name, into.err)
	} else if err != nil {
		return damaged("it ends within %s", name)
	}
	if name == sumsFile {
		if content.String() != sums.String() {
			return damaged("the sums of its files differ from %s", sumsFile)
		}
		return nil
	}
	fmt.Fprintf(sums, "%x  %s\n", sum.Sum(nil), name)
	if name == metaFile {
		if err := json.Unmarshal(content.Bytes(), &c.Meta); err != nil {
			return damaged("%s: %v", metaFile, err)
		}
		if c.Meta.Format != format {
			return fmt.Errorf("it has format %d, and this Portico (which knows format %d) can't read it; use the version that wrote it, %s", c.Meta.Format, format, c.Meta.Version)
		}
	} else if key, ok := strings.CutPrefix(name, keysDir+"/"); ok && slices.Contains(keyFiles, key) {
		c.Keys[key] = content.Bytes()
	}
	return nil
}

// target keeps the error of writing apart from that of reading.
type target struct {
	w   io.Writer
	err error
}

func (t *target) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.err = err
	return n, err
}
