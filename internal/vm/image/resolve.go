package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxFile bounds an extracted file: the largest initramfs in use has a few
// hundred megabytes.
const maxFile = 2 << 30

// maxHops is how many symbolic links a path may lead through, as in the kernel.
const maxHops = 40

// Resolve gives a file of the host with the content of the file at name in the
// image. Links are followed inside the image only.
func (s *Store) Resolve(ctx context.Context, ref, name string) (string, error) {
	dir, _, err := s.folder(ref)
	if err != nil {
		return "", err
	}
	img, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("image %s: %w; bring it with: portico image import FILE --name %s", ref, ErrNotFound, ref)
	}
	if err != nil {
		return "", fmt.Errorf("image %s is damaged, import it again: %w", ref, err)
	}
	// The digest is part of the name: an image that is replaced while we read
	// must not get the old one's file.
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("image %s is damaged, import it again: %w", ref, err)
	}
	sum := sha256.Sum256([]byte(digest.String() + path.Clean("/"+name)))
	file := filepath.Join(dir, "files", hex.EncodeToString(sum[:]))
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := extract(ctx, img, path.Clean("/"+name), file); err != nil {
		return "", fmt.Errorf("image %s: %w", ref, err)
	}
	return file, nil
}

// extract writes one file of the image. Usually the name is a regular file and
// one pass over the layers is enough.
func extract(ctx context.Context, img v1.Image, name, file string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".extract-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	tree := map[string]node{}
	found, err := pass(ctx, img, name, tmp, tree)
	if err != nil {
		return err
	}
	if !found {
		target, err := follow(tree, name)
		if err != nil {
			return err
		}
		if found, err = pass(ctx, img, target, tmp, nil); err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("%s is not a file", name)
		}
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// node is what an image's tree has at a path; only links matter.
type node struct {
	symlink, hardlink string
}

// pass walks the image's tree, copies the file at name to out and notes all
// paths in tree unless that is nil.
func pass(ctx context.Context, img v1.Image, name string, out io.Writer, tree map[string]node) (found bool, err error) {
	err = walk(ctx, img, func(at string, h *tar.Header, content io.Reader) error {
		if at != name || h.Typeflag != tar.TypeReg {
			if tree != nil {
				tree[at] = linkOf(h)
			}
			return nil
		}
		if h.Size > maxFile {
			return fmt.Errorf("%s has %d bytes, want at most %d", name, h.Size, int64(maxFile))
		}
		if _, err := io.Copy(out, content); err != nil {
			return err
		}
		found = true
		return errStop
	})
	return found, err
}

func linkOf(h *tar.Header) node {
	switch h.Typeflag {
	case tar.TypeSymlink:
		return node{symlink: h.Linkname}
	case tar.TypeLink:
		return node{hardlink: h.Linkname}
	}
	return node{}
}

// follow resolves links of a path component by component, as a process with the
// image as its root would.
func follow(tree map[string]node, name string) (string, error) {
	at, rest, hops := "/", strings.TrimPrefix(name, "/"), 0
	for rest != "" {
		var first string
		first, rest, _ = strings.Cut(rest, "/")
		next := path.Join(at, first) // never above "/": at is absolute
		n, ok := tree[next]
		target := n.symlink
		switch {
		case n.hardlink != "":
			target = "/" + n.hardlink
		case target == "":
			if !ok && rest == "" {
				return "", fmt.Errorf("there is no file %s in it", name)
			}
			at = next
			continue
		}
		if hops++; hops > maxHops {
			return "", fmt.Errorf("%s leads through too many links", name)
		}
		if !path.IsAbs(target) {
			target = path.Join(at, target)
		}
		at, rest = "/", strings.TrimPrefix(path.Join(path.Clean(target), rest), "/")
	}
	return at, nil
}
