package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
)

type kind int

const (
	ociLayout kind = iota
	dockerSave
)

// maxIndex bounds the small files of an archive; blobs are bounded by the disk.
const maxIndex = 4 << 20

// blobName is the only kind of name that reaches the host's file system.
var blobName = regexp.MustCompile(`^blobs/sha256/[0-9a-f]{64}$`)

var errNotAnImage = errors.New("it is neither an OCI archive nor made by docker save; make one of them")

// opener gives the archive's bytes, unzipped if need be.
func opener(archive string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		f, err := os.Open(archive)
		if err != nil {
			return nil, err
		}
		in := bufio.NewReader(f)
		magic, _ := in.Peek(2)
		if string(magic) != "\x1f\x8b" {
			return readCloser{in, f}, nil
		}
		z, err := gzip.NewReader(in)
		if err != nil {
			f.Close()
			return nil, err
		}
		return readCloser{z, f}, nil
	}
}

type readCloser struct {
	io.Reader
	io.Closer
}

// kindOf looks through an archive; new docker-save archives are both kinds, and
// then the OCI side is the better documented one.
func kindOf(archive string) (kind, error) {
	r, err := opener(archive)()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	docker, entries := false, 0
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		switch {
		case err == io.EOF && docker:
			return dockerSave, nil
		case err == io.EOF:
			return 0, errNotAnImage
		case err != nil && entries == 0:
			return 0, errNotAnImage
		case err != nil:
			return 0, fmt.Errorf("the archive is damaged, make it again: %w", err)
		}
		entries++
		switch path.Clean(h.Name) {
		case "index.json":
			return ociLayout, nil
		case "manifest.json":
			docker = true
		}
	}
}

// unpackLayout writes an OCI archive's known files into dir and checks that each
// blob is what its name says. Other entries are ignored.
func unpackLayout(ctx context.Context, archive, dir string) error {
	r, err := opener(archive)()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return err
	}
	in := tar.NewReader(r)
	for ctx.Err() == nil {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the archive is damaged, make it again: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		switch n := path.Clean(h.Name); {
		case n == "index.json" || n == "oci-layout":
			if h.Size > maxIndex {
				return fmt.Errorf("its %s has %d bytes, want at most %d", n, h.Size, maxIndex)
			}
			_, err = copyTo(filepath.Join(dir, n), in)
		case blobName.MatchString(n):
			err = copyBlob(filepath.Join(dir, n), in)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func copyBlob(file string, in io.Reader) error {
	sum, err := copyTo(file, in)
	if err != nil {
		return err
	}
	if want := filepath.Base(file); sum != want {
		return fmt.Errorf("the archive is damaged, make it again: the blob sha256:%s has the digest sha256:%s", want, sum)
	}
	return nil
}

// copyTo writes a new file and gives its SHA-256.
func copyTo(file string, in io.Reader) (string, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), in)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
