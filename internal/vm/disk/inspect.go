package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// inspectTimeout bounds qemu-img; it reads a header, so a second is long.
const inspectTimeout = 10 * time.Second

// Image is a disk image that QEMU may open.
type Image struct {
	Format string // raw or qcow2
	Block  bool   // a block device
}

// Inspect looks at the image at path. qemuImg is the program to ask about qcow2
// images.
func Inspect(ctx context.Context, qemuImg, path string) (Image, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return Image{}, fmt.Errorf("open the disk image %s: %w", path, reason(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Image{}, fmt.Errorf("look at the disk image %s: %w", path, err)
	}
	block := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	if !block && !info.Mode().IsRegular() {
		return Image{}, fmt.Errorf("the disk image %s is neither a file nor a block device", path)
	}
	if !block && info.Size() == 0 {
		return Image{}, fmt.Errorf("the disk image %s is empty; copy it again", path)
	}
	header := make([]byte, headerSize)
	n, err := io.ReadFull(f, header)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Image{}, fmt.Errorf("read the disk image %s: %w", path, err)
	}
	format, err := sniff(header[:n])
	if err != nil {
		return Image{}, fmt.Errorf("the disk image %s can't be used: %w", path, err)
	}
	if format == "qcow2" {
		if err := askQemuImg(ctx, qemuImg, path); err != nil {
			return Image{}, err
		}
	}
	return Image{Format: format, Block: block}, nil
}

// reason leaves out the path, which the caller names.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// askQemuImg has the image's tables checked for sense by the program that knows
// the format; -U because a running guest may hold the lock.
func askQemuImg(ctx context.Context, qemuImg, path string) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuImg, "info", "-U", "-f", "qcow2", "--output=json", path)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("qemu-img is missing; install it with: apt-get install qemu-utils: %w", err)
	}
	if err != nil {
		return fmt.Errorf("the disk image %s is damaged, copy it again: %s", path, strings.TrimSpace(complaint.String()))
	}
	var info struct {
		Backing string `json:"backing-filename"`
		Format  struct {
			Data struct {
				DataFile string `json:"data-file"`
				Corrupt  bool   `json:"corrupt"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("read what qemu-img says of %s: %w", path, err)
	}
	switch {
	case info.Backing != "" || info.Format.Data.DataFile != "":
		return fmt.Errorf("the disk image %s can't be used: %w", path, ErrUnsafe)
	case info.Format.Data.Corrupt:
		return fmt.Errorf("the disk image %s is marked as corrupt; repair it with: qemu-img check -r all %s", path, path)
	}
	return nil
}

// Create makes an empty sparse raw image of size bytes unless path exists.
func Create(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create the disk image %s: %w", path, reason(err))
	}
	// Whole sectors, or the guest can't reach the last bytes.
	const sector = 512
	err = f.Truncate((size + sector - 1) / sector * sector)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("create the disk image %s with %d bytes: %w", path, size, err)
	}
	return nil
}
