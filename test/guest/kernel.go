package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// booted is what the test guest needs of Debian's present cloud kernel beyond what is built
// in; the modules in the order of their dependencies.
var booted = selection{meta: "linux-image-cloud-amd64", modules: []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
	"failover", "net_failover", "virtio_net", "evdev", "button", "virtio_blk", "qemu_fw_cfg",
}}

// ErrNoKernel says that the kernel package can't be had on this machine; tests
// skip then.
var ErrNoKernel = errors.New("the kernel package of Debian can't be had")

// A selection is what a guest takes out of which package.
type selection struct {
	name    string // of the guest, in its folder's name
	meta    string // the package that depends on the kernel's
	modules []string
}

// kernel makes sure that a folder under cache holds vmlinuz, the modules that are selected
// and those they need, and the list "load" with their order. A kernel with the same modules
// that is there is kept: which version it is matters to no test.
func kernel(ctx context.Context, cache string, s selection, logf func(string, ...any)) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(s.modules, " ")))
	suffix := s.name + "-" + hex.EncodeToString(sum[:4])
	ready, err := filepath.Glob(filepath.Join(cache, "kernel-*"+suffix, "complete"))
	if err != nil {
		return "", err
	}
	if len(ready) > 0 {
		return filepath.Dir(ready[len(ready)-1]), nil
	}
	tmp, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	name, deb, err := download(ctx, tmp, s.meta, logf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	tree := filepath.Join(tmp, "tree")
	if _, err := output(ctx, tmp, "dpkg", "-x", deb, tree); err != nil {
		return "", err
	}
	picked := filepath.Join(tmp, "picked")
	if err := pick(ctx, tree, picked, s.modules); err != nil {
		return "", fmt.Errorf("take apart %s: %w", deb, err)
	}
	dir := filepath.Join(cache, "kernel-"+name+suffix)
	if err := os.Rename(picked, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// download fetches the kernel's package that meta depends on and returns its name and file.
func download(ctx context.Context, dir, meta string, logf func(string, ...any)) (name, deb string, err error) {
	if name, deb, err = tryDownload(ctx, dir, meta, logf); err == nil {
		return name, deb, nil
	}
	// Fresh systems and containers have no package lists, old lists name
	// packages that are gone.
	logf("refreshing package lists (%v)", err)
	if _, err := output(ctx, dir, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update"); err != nil {
		return "", "", err
	}
	return tryDownload(ctx, dir, meta, logf)
}

func tryDownload(ctx context.Context, dir, meta string, logf func(string, ...any)) (name, deb string, err error) {
	depends, err := output(ctx, dir, "apt-cache", "depends", meta)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(depends) {
		if d, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			name = "linux-image-" + d
			break
		}
	}
	if name == "" {
		return "", "", fmt.Errorf("%s depends on no kernel package", meta)
	}
	logf("downloading %s", name)
	if _, err := output(ctx, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
		return "", "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", "", fmt.Errorf("apt-get download %s left %d files", name, len(found))
	}
	return name, found[0], nil
}

// pick copies what the guest needs out of an unpacked package.
func pick(ctx context.Context, tree, into string, modules []string) error {
	found, err := takeKernel(tree, into)
	if err != nil {
		return err
	}
	l := loader{ctx: ctx, found: found, into: into, seen: map[string]bool{}}
	for _, m := range modules {
		if err := l.add(m); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(into, "load"), []byte(strings.Join(l.order, "\n")), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, "complete"), nil, 0o644)
}

// loader copies modules in the order in which they can be loaded.
type loader struct {
	ctx   context.Context
	found map[string]string
	into  string
	seen  map[string]bool
	order []string
}

func (l *loader) add(name string) error {
	if l.seen[name] {
		return nil
	}
	l.seen[name] = true
	path, ok := l.found[name]
	if !ok {
		return fmt.Errorf("it has no module %s", name)
	}
	to := filepath.Join(l.into, name+".ko")
	if err := takeModule(l.ctx, path, to); err != nil {
		return err
	}
	needs, err := moduleNeeds(to)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, n := range needs {
		if err := l.add(n); err != nil {
			return err
		}
	}
	l.order = append(l.order, name)
	return nil
}

// moduleNeeds reads which others a module names in its section .modinfo.
func moduleNeeds(file string) (needs []string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Split(string(b), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			for _, n := range strings.Split(list, ",") {
				needs = append(needs, strings.ReplaceAll(n, "-", "_"))
			}
		}
	}
	return needs, nil
}

// takeKernel moves vmlinuz out of an unpacked package and says where which module is.
func takeKernel(tree, into string) (found map[string]string, err error) {
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return nil, fmt.Errorf("%d kernels in it, want one", len(kernels))
	}
	if err := os.Rename(kernels[0], filepath.Join(into, "vmlinuz")); err != nil {
		return nil, err
	}
	found = map[string]string{}
	err = filepath.WalkDir(filepath.Join(tree, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok && err == nil && !d.IsDir() {
			found[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	return found, err
}

// takeModule moves one module, as the kernel loads it.
func takeModule(ctx context.Context, path, to string) error {
	if strings.HasSuffix(path, ".xz") {
		if _, err := output(ctx, "", "xz", "-d", path); err != nil {
			return err
		}
		path = strings.TrimSuffix(path, ".xz")
	}
	return os.Rename(path, to)
}

// output runs a program; its error holds the last line of what it complained.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(complaints.String()), "\n")
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lines[len(lines)-1])
	}
	return string(out), nil
}
