package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// ImageName is the reference under which the archive's image goes.
	ImageName = "portico.local/guest:latest"
	// KernelPath and InitrdPath are the files in the image.
	KernelPath = "/boot/vmlinuz"
	InitrdPath = "/boot/initrd"
	// KernelArgs boots it fast under software emulation: no address-space
	// randomisation, no mitigations, no self tests, one serial port.
	KernelArgs = "console=ttyS0 quiet nokaslr mitigations=off no_timer_check tsc=reliable cryptomgr.notests " +
		"8250.nr_uarts=1 audit=0 apparmor=0 rcupdate.rcu_expedited=1 panic=-1"
	// MemoryMiB is enough for it.
	MemoryMiB = 128
)

// Options says where things go.
type Options struct {
	Cache string // a folder to keep downloads and results in
	Logf  func(format string, args ...any)
}

// Artifacts are the files of a build, all in the cache.
type Artifacts struct {
	Kernel, Initrd string
	Archive        string // an OCI archive with both
}

// Build makes the guest, or finds it in the cache.
func Build(ctx context.Context, o Options) (Artifacts, error) {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest: %w", err)
	}
	cache, err := filepath.Abs(o.Cache)
	if err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest: %w", err)
	}
	k, err := kernel(ctx, cache, booted, o.Logf)
	if err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest: %w", err)
	}
	init, err := buildInit(ctx, cache, "./test/guest/init")
	if err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest: %w", err)
	}
	initrd, err := initramfs(k, init)
	if err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest's initramfs: %w", err)
	}
	sum := sha256.Sum256(append([]byte(filepath.Base(k)+"\n"), initrd...))
	dir := filepath.Join(cache, "guest-"+hex.EncodeToString(sum[:8]))
	a := Artifacts{filepath.Join(k, "vmlinuz"), filepath.Join(dir, "initrd"), filepath.Join(dir, "guest.tar")}
	if _, err := os.Stat(a.Archive); err == nil {
		o.Logf("the test guest is in the cache: %s", dir)
		return a, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest: %w", err)
	}
	if err := writeFile(a.Initrd, initrd); err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest: %w", err)
	}
	if err := archive(a, dir); err != nil {
		return Artifacts{}, fmt.Errorf("build the test guest's image: %w", err)
	}
	o.Logf("built the test guest: %s", dir)
	return a, nil
}

// CacheDir is the cache of the source tree that holds the working directory.
func CacheDir(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".cache", "guest"), nil
}

func moduleRoot(ctx context.Context) (string, error) {
	mod, err := output(ctx, "", "go", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(mod)
	if filepath.Base(file) != "go.mod" {
		return "", fmt.Errorf("the working directory is in no Go module")
	}
	return filepath.Dir(file), nil
}

// buildInit compiles an init program; Go's own cache makes that quick.
func buildInit(ctx context.Context, cache, program string) ([]byte, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(cache, "init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "init")
	// -buildvcs=false: a commit must not make another guest.
	_, err = output(ctx, root, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, program)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// initramfs is not compressed: unpacking it under emulation would cost more
// time than loading it.
func initramfs(kernelDir string, init []byte) ([]byte, error) {
	entries := []entry{
		{name: "dev", mode: modeDir | 0o755},
		// The kernel opens /dev/console for process 1 before devtmpfs is there.
		{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1},
		{name: "init", mode: modeFile | 0o755, data: init},
		{name: "lib", mode: modeDir | 0o755},
		{name: "lib/modules", mode: modeDir | 0o755},
	}
	var load strings.Builder
	for _, m := range booted.modules {
		b, err := os.ReadFile(filepath.Join(kernelDir, m+".ko"))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name: "lib/modules/" + m + ".ko", mode: modeFile | 0o644, data: b})
		fmt.Fprintf(&load, "/lib/modules/%s.ko\n", m)
	}
	entries = append(entries, entry{name: "lib/modules/load", mode: modeFile | 0o644, data: []byte(load.String())})
	var b bytes.Buffer
	err := writeCPIO(&b, entries)
	return b.Bytes(), err
}

// writeFile puts a file in place at once, so that another build never sees half.
func writeFile(path string, b []byte) error {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
