package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// file is an entry of a layer.
type file struct {
	name, content, link string
	kind                byte
}

func reg(name, content string) file { return file{name, content, "", tar.TypeReg} }
func sym(name, to string) file      { return file{name, "", to, tar.TypeSymlink} }

func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: f.kind, Name: f.name, Linkname: f.link, Size: int64(len(f.content)), Mode: 0o644}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imageOf makes an image of layers, the lowest first.
func imageOf(t *testing.T, layers ...[]file) v1.Image {
	t.Helper()
	img := empty.Image
	for _, files := range layers {
		b := tarOf(t, files...)
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// ociArchive writes img as an OCI archive with a name and further entries.
func ociArchive(t *testing.T, img v1.Image, named string, more ...file) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": named})); err != nil {
		t.Fatal(err)
	}
	var files []file
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files = append(files, reg(rel, string(b)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, tarOf(t, append(files, more...)...))
}

func write(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func content(t *testing.T, s *Store, ref, path string) string {
	t.Helper()
	f, err := s.Resolve(t.Context(), ref, path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// VM-03: kernelBoot finds its files whatever the archive's kind.
func TestImportAndResolve(t *testing.T) {
	s := open(t)
	img := imageOf(t,
		[]file{reg("etc/opaque/old", "o"), reg("boot/vmlinuz", "old"), reg("boot/gone", "x"), reg("./boot/initrd", "disk"), sym("vmlinuz", "boot/vmlinuz")},
		[]file{reg("etc/opaque/.wh..wh..opq", ""), reg("etc/opaque/new", "n"), reg("boot/vmlinuz", "kernel"), reg("boot/.wh.gone", ""), sym("kernels", "/boot"), {"hard", "", "boot/initrd", tar.TypeLink}})
	got, err := s.Import(t.Context(), ociArchive(t, img, "example.com/guest:v1"), "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Ref != "example.com/guest:v1" || !strings.HasPrefix(got.Digest, "sha256:") || got.Size == 0 {
		t.Errorf("imported %+v", got)
	}
	for path, want := range map[string]string{
		"/boot/vmlinuz": "kernel", "boot/initrd": "disk", "/vmlinuz": "kernel",
		"/kernels/vmlinuz": "kernel", "/hard": "disk", "/etc/opaque/new": "n", "/../boot/./vmlinuz": "kernel",
	} {
		for range 2 { // the second time it is there already
			if got := content(t, s, "example.com/guest:v1", path); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
	}
	for _, path := range []string{"/boot/gone", "/etc/opaque/old", "/boot", "/absent", "/"} {
		if f, err := s.Resolve(t.Context(), "example.com/guest:v1", path); err == nil {
			t.Errorf("%s resolved to %s", path, f)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Digest != got.Digest {
		t.Errorf("list: %+v, %v", list, err)
	}

	// The same name again replaces the image; names have a short form.
	docker := filepath.Join(t.TempDir(), "docker.tar")
	tag, _ := name.NewTag("short:latest")
	if err := tarball.WriteToFile(docker, tag, imageOf(t, []file{reg("k", "docker")})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), docker, ""); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "docker.io/library/short", "k"); got != "docker" {
		t.Errorf("got %q", got)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	b, _ := os.ReadFile(ociArchive(t, imageOf(t, []file{reg("k", "newer")}), ""))
	w.Write(b)
	w.Close()
	if _, err := s.Import(t.Context(), write(t, z.Bytes()), "short"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "short:latest", "k"); got != "newer" {
		t.Errorf("got %q", got)
	}
	if err := s.Remove("short"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("short"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, ".[ir]*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestMissingImageNamesTheRemedy(t *testing.T) {
	_, err := open(t).Resolve(t.Context(), "portico.local/guest", "/boot/vmlinuz")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "portico image import") {
		t.Errorf("got %v", err)
	}
}

func TestNothingEscapes(t *testing.T) {
	s := open(t)
	secret := filepath.Join(filepath.Dir(s.dir), "secret")
	if err := os.WriteFile(secret, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := imageOf(t, []file{
		sym("abs", secret), sym("rel", "../../../../../../../../.."+secret), sym("loop", "loop"), sym("dir", "/.."),
		reg("../../../escaped", "x"),
	})
	archive := ociArchive(t, img, "evil", reg("../escaped", "x"), reg("blobs/sha256/../../../escaped", "x"), sym("blobs/sha256/aa", secret))
	if _, err := s.Import(t.Context(), archive, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/abs", "/rel", "/loop", "/dir" + secret} {
		if f, err := s.Resolve(t.Context(), "evil", path); err == nil {
			t.Errorf("%s resolved to %s", path, f)
		}
	}
	_ = filepath.WalkDir(filepath.Dir(s.dir), func(path string, _ fs.DirEntry, _ error) error {
		if filepath.Base(path) == "escaped" {
			t.Errorf("an archive wrote %s", path)
		}
		return nil
	})
}

func TestBadArchives(t *testing.T) {
	good, err := os.ReadFile(ociArchive(t, imageOf(t, []file{reg("k", "kernel")}), "good"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(good, []byte(`"architecture"`), []byte(`"architectura"`), 1)
	two := filepath.Join(t.TempDir(), "two.tar")
	a, _ := name.NewTag("aa")
	b, _ := name.NewTag("bb")
	err = tarball.MultiWriteToFile(two, map[name.Tag]v1.Image{a: imageOf(t, []file{reg("k", "1")}), b: imageOf(t, []file{reg("k", "2")})})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path, ref, want string }{
		{"no file", "/nowhere.tar", "", "/nowhere.tar"},
		{"no tar", write(t, []byte("hello")), "", "neither an OCI archive"},
		{"another tar", write(t, tarOf(t, reg("readme", "x"))), "", "neither an OCI archive"},
		{"cut off", write(t, good[:700]), "", "make it again"},
		{"a blob changed", write(t, damaged), "", "has the digest"},
		{"no name", ociArchive(t, imageOf(t, []file{reg("k", "x")}), ""), "", "--name"},
		{"bad name", write(t, good), "UPPER CASE", "image name"},
		{"two images", two, "other", "2 images"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t)
			_, err := s.Import(t.Context(), tc.path, tc.ref)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if list, err := s.List(); err != nil || len(list) != 0 {
				t.Errorf("the store has %v, %v", list, err)
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, ".import-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func FuzzFollow(f *testing.F) {
	f.Add("a", "b", "c", "/a/c")
	f.Add("a", "../..", "../../etc", "/a/../a/b")
	f.Add("a", "a", "/a", "/a")
	f.Fuzz(func(t *testing.T, link, to, hard, name string) {
		tree := map[string]node{"/" + link: {symlink: to}, "/x": {hardlink: hard}, "/y/z": {symlink: hard}, "/b": {}}
		got, err := follow(tree, "/"+name)
		if err == nil && (!filepath.IsAbs(got) || strings.HasPrefix(got, "/..")) {
			t.Errorf("%q leads to %q", name, got)
		}
	})
}

func FuzzImport(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": `{"schemaVersion":2,"manifests":[]}`} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text))})
		io.WriteString(w, text)
	}
	w.Close()
	f.Add(b.Bytes())
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		s := open(t)
		path := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(path, archive, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(t.Context(), path, "fuzz"); err == nil {
			t.Skip("a good archive")
		}
	})
}
