package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"golang.org/x/sys/unix"
)

// ErrNotFound says that the store has no such image.
var ErrNotFound = errors.New("the image isn't in this node's store")

// Image is one image of the store.
type Image struct {
	Ref      string    `json:"ref"`
	Digest   string    `json:"digest"`
	Size     int64     `json:"size"` // of the compressed layers
	Imported time.Time `json:"imported"`
}

// Store is a folder of images. Several processes may use one.
type Store struct{ dir string }

// Open makes the folder if need be.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	return &Store{dir}, nil
}

// List gives all images, in no order.
func (s *Store) List() ([]Image, error) {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list the image store: %w", err)
	}
	var out []Image
	for _, d := range dirs {
		if !d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			continue
		}
		i, err := s.describe(filepath.Join(s.dir, d.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list the image store: %w", err)
		}
		out = append(out, i)
	}
	return out, nil
}

// Remove deletes an image. Guests that run from it go on: QEMU has the kernel in
// memory.
func (s *Store) Remove(ref string) error {
	dir, _, err := s.folder(ref)
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	gone := filepath.Join(s.dir, fmt.Sprintf(".removed-%d", time.Now().UnixNano()))
	err = os.Rename(dir, gone)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the image %s: %w", ref, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove the image %s: %w", ref, err)
	}
	return os.RemoveAll(gone)
}

// folder is where an image of this reference is, and the reference in full:
// "guest" and "docker.io/library/guest:latest" are one image.
func (s *Store) folder(ref string) (dir, full string, err error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return "", "", fmt.Errorf("image name %q: %w", ref, err)
	}
	sum := sha256.Sum256([]byte(parsed.Name()))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])), parsed.Name(), nil
}

func (s *Store) describe(dir string) (Image, error) {
	ref, err := os.ReadFile(filepath.Join(dir, "ref"))
	if err != nil {
		return Image{}, err
	}
	info, err := os.Stat(filepath.Join(dir, "ref"))
	if err != nil {
		return Image{}, err
	}
	img, err := load(dir)
	if err != nil {
		return Image{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return Image{}, err
	}
	m, err := img.Manifest()
	if err != nil {
		return Image{}, err
	}
	out := Image{Ref: string(ref), Digest: digest.String(), Imported: info.ModTime()}
	for _, l := range m.Layers {
		out.Size += l.Size
	}
	return out, nil
}

// load opens the image in a folder of the store.
func load(dir string) (v1.Image, error) {
	b, err := os.ReadFile(filepath.Join(dir, "digest"))
	if err != nil {
		return nil, err
	}
	digest, err := v1.NewHash(string(b))
	if err != nil {
		return nil, err
	}
	return layout.Path(filepath.Join(dir, "layout")).Image(digest)
}

// lock keeps other writers out, also those of other processes.
func (s *Store) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the image store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the image store: %w", err)
	}
	return func() { f.Close() }, nil
}
