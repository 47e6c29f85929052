package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// Annotations in which archives name their images.
var nameAnnotations = []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"}

// Import puts the image of an archive into the store under ref, or under the
// name that the archive gives it when ref is empty. An image that had the name
// is replaced.
func (s *Store) Import(ctx context.Context, archive, ref string) (Image, error) {
	img, err := s.importArchive(ctx, archive, ref)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", archive, err)
	}
	return img, nil
}

func (s *Store) importArchive(ctx context.Context, archive, ref string) (Image, error) {
	unlock, err := s.lock()
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if err := s.sweep(); err != nil {
		return Image{}, err
	}
	tmp, err := os.MkdirTemp(s.dir, ".import-")
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(tmp)

	digest, named, err := unpack(ctx, archive, filepath.Join(tmp, "layout"), ref)
	if err != nil {
		return Image{}, err
	}
	if ref == "" {
		ref = named
	}
	if ref == "" {
		return Image{}, errors.New("the archive gives its image no name; give one with --name")
	}
	dir, full, err := s.folder(ref)
	if err != nil {
		return Image{}, err
	}
	for file, content := range map[string]string{"ref": full, "digest": digest.String()} {
		if err := os.WriteFile(filepath.Join(tmp, file), []byte(content), 0o600); err != nil {
			return Image{}, err
		}
	}
	if err := os.Mkdir(filepath.Join(tmp, "files"), 0o700); err != nil {
		return Image{}, err
	}
	out, err := s.describe(tmp)
	if err != nil {
		return Image{}, err
	}
	return out, place(tmp, dir)
}

// place moves a finished folder to its name; what was there is exchanged, to be
// removed with the temporary folder.
func place(tmp, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	}
	return err
}

// sweep removes what an interrupted import or removal left. The lock is held, so
// nobody is at work there.
func (s *Store) sweep() error {
	for _, pattern := range []string{".import-*", ".removed-*"} {
		left, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return err
		}
		for _, l := range left {
			if err := os.RemoveAll(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpack makes an image layout in dir out of an archive of either kind and picks
// the image for this machine.
func unpack(ctx context.Context, archive, dir, ref string) (digest v1.Hash, named string, err error) {
	kind, err := kindOf(archive)
	if err != nil {
		return v1.Hash{}, "", err
	}
	if kind == dockerSave {
		return unpackDocker(archive, dir, ref)
	}
	if err := unpackLayout(ctx, archive, dir); err != nil {
		return v1.Hash{}, "", err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return v1.Hash{}, "", err
	}
	found, err := images(index, "", 0)
	if err != nil {
		return v1.Hash{}, "", err
	}
	picked, err := choose(found, ref)
	if err != nil {
		return v1.Hash{}, "", err
	}
	return picked.digest, picked.name, complete(dir, picked.digest)
}

func unpackDocker(archive, dir, ref string) (v1.Hash, string, error) {
	manifest, err := tarball.LoadManifest(opener(archive))
	if err != nil {
		return v1.Hash{}, "", err
	}
	if len(manifest) != 1 {
		return v1.Hash{}, "", fmt.Errorf("it holds %d images, want one", len(manifest))
	}
	img, err := tarball.Image(opener(archive), nil)
	if err != nil {
		return v1.Hash{}, "", err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, "", err
	}
	if err := path.AppendImage(img); err != nil {
		return v1.Hash{}, "", err
	}
	named := ""
	if tags := manifest[0].RepoTags; len(tags) > 0 {
		named = tags[0]
	}
	digest, err := img.Digest()
	return digest, named, err
}

// candidate is an image that an archive holds.
type candidate struct {
	digest   v1.Hash
	name     string
	platform *v1.Platform
}

// maxNesting bounds indexes within indexes; real archives have one.
const maxNesting = 4

func images(index v1.ImageIndex, named string, depth int) ([]candidate, error) {
	if depth > maxNesting {
		return nil, errors.New("its indexes are nested too deeply")
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var out []candidate
	for _, d := range m.Manifests {
		n := named
		for _, a := range nameAnnotations {
			if v := d.Annotations[a]; v != "" && n == "" {
				n = v
			}
		}
		switch {
		case d.MediaType.IsImage():
			out = append(out, candidate{d.Digest, n, d.Platform})
		case d.MediaType.IsIndex():
			child, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			more, err := images(child, n, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

// choose takes the image that is named ref, if there are several names, and then
// the one for this machine, if there are several platforms.
func choose(found []candidate, ref string) (candidate, error) {
	if same := withName(found, ref); len(same) > 0 {
		found = same
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var fits []candidate
	for _, c := range found {
		if c.platform != nil && c.platform.OS == "linux" && c.platform.Architecture == runtime.GOARCH {
			fits = append(fits, c)
		}
	}
	if len(fits) != 1 {
		return candidate{}, fmt.Errorf("of its %d images %d are for linux/%s, want one", len(found), len(fits), runtime.GOARCH)
	}
	return fits[0], nil
}

func withName(found []candidate, ref string) []candidate {
	want, err := name.ParseReference(ref)
	if err != nil {
		return nil
	}
	var out []candidate
	for _, c := range found {
		if have, err := name.ParseReference(c.name); err == nil && have.Name() == want.Name() {
			out = append(out, c)
		}
	}
	return out
}

// complete checks that all blobs of the image are there; unpackLayout has checked
// that each is what its name says.
func complete(dir string, digest v1.Hash) error {
	img, err := layout.Path(dir).Image(digest)
	if err != nil {
		return err
	}
	m, err := img.Manifest()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the archive lacks the blob %s; make it again", digest)
	}
	if err != nil {
		return err
	}
	for _, d := range append(m.Layers, m.Config) {
		_, err := os.Stat(filepath.Join(dir, "blobs", d.Digest.Algorithm, d.Digest.Hex))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the archive lacks the blob %s; make it again", d.Digest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
