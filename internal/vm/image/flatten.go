package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Whiteouts, as the OCI image specification calls entries that hide those of
// lower layers.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// errStop ends a walk early.
var errStop = errors.New("stop")

// walk visits what a container of the image would see, highest layer first. The
// path that visit gets is absolute and clean.
func walk(ctx context.Context, img v1.Image, visit func(at string, h *tar.Header, content io.Reader) error) error {
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("read its layers: %w", err)
	}
	upper := cover{}
	for i := len(layers) - 1; i >= 0; i-- {
		own := cover{}
		if err := walkLayer(ctx, layers[i], upper, own, visit); err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
		for at, how := range own {
			upper[at] |= how
		}
	}
	return nil
}

func walkLayer(ctx context.Context, layer v1.Layer, upper, own cover, visit func(string, *tar.Header, io.Reader) error) error {
	r, err := layer.Uncompressed()
	if err != nil {
		return fmt.Errorf("read a layer: %w", err)
	}
	defer r.Close()
	in := tar.NewReader(r)
	for ctx.Err() == nil {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a layer: %w", err)
		}
		at := path.Clean("/" + h.Name)
		dir, base := path.Split(at)
		switch {
		case base == opaque:
			own[path.Clean(dir)] |= hidesBelow
			continue
		case strings.HasPrefix(base, whiteout):
			own[path.Join(dir, strings.TrimPrefix(base, whiteout))] |= hidesItself | hidesBelow
			continue
		case upper.hides(at):
			continue
		case h.Typeflag == tar.TypeDir:
			own[at] |= hidesItself
		default:
			own[at] |= hidesItself | hidesBelow
		}
		if err := visit(at, h, in); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// cover says what paths of higher layers do to the same paths of lower ones.
type cover map[string]hiding

type hiding uint8

const (
	hidesItself hiding = 1 << iota
	hidesBelow
)

func (c cover) hides(at string) bool {
	if c[at]&hidesItself != 0 {
		return true
	}
	for at != "/" {
		at = path.Dir(at)
		if c[at]&hidesBelow != 0 {
			return true
		}
	}
	return false
}
