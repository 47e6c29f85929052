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
	"path/filepath"
	"slices"
	"strings"
)

// suitePackage depends on the newest kernel of Debian's that this release has for clouds.
const suitePackage = "linux-image-6.12-cloud-amd64"

// A Suite is a program that is run as root in a guest whose kernel can do more than the
// host's: a compiled test, say. The guest has nothing else, no disk and no network.
type Suite struct {
	Program string   // a static executable
	Args    []string // its arguments
	Env     []string
	Modules []string // of the kernel, to load before; what they need is loaded too
	// Tools are programs that it runs, found by PATH here and there.
	Tools []string
}

// SuiteKernelArgs are KernelArgs with serial ports left as they are.
const SuiteKernelArgs = "console=ttyS0 quiet nokaslr mitigations=off no_timer_check tsc=reliable cryptomgr.notests " +
	"audit=0 apparmor=0 rcupdate.rcu_expedited=1 panic=-1"

// BuildSuite makes a kernel and an initramfs, the latter in dir. The guest's program is
// ./suite; what it prints is on the first virtio console, and the guest ends with it.
func BuildSuite(ctx context.Context, o Options, s Suite, dir string) (a Artifacts, err error) {
	wrap := func(err error) error { return fmt.Errorf("build a guest for a suite: %w", err) }
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return a, wrap(err)
	}
	cache, err := filepath.Abs(o.Cache)
	if err != nil {
		return a, wrap(err)
	}
	k, err := suiteKernel(ctx, cache, s.Modules, o.Logf)
	if err != nil {
		return a, wrap(err)
	}
	init, err := buildInit(ctx, cache, "./test/guest/suite")
	if err != nil {
		return a, wrap(err)
	}
	entries, err := suiteEntries(ctx, k, s)
	if err != nil {
		return a, wrap(err)
	}
	entries = append(entries, entry{name: "init", mode: modeFile | 0o755, data: init})
	var b bytes.Buffer
	if err := writeCPIO(&b, entries); err != nil {
		return a, wrap(err)
	}
	a = Artifacts{Kernel: filepath.Join(k, "vmlinuz"), Initrd: filepath.Join(dir, "initrd")}
	return a, os.WriteFile(a.Initrd, b.Bytes(), 0o644)
}

// suiteKernel makes sure that a folder under cache holds vmlinuz, the modules that are
// wanted and those they need, and the list "load" with their order.
func suiteKernel(ctx context.Context, cache string, wanted []string, logf func(string, ...any)) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(wanted, " ")))
	suffix := "-suite-" + hex.EncodeToString(sum[:4])
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
	name, deb, err := download(ctx, tmp, suitePackage, logf)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	tree, picked := filepath.Join(tmp, "tree"), filepath.Join(tmp, "picked")
	if _, err := output(ctx, tmp, "dpkg", "-x", deb, tree); err != nil {
		return "", err
	}
	found, err := takeKernel(tree, picked)
	if err != nil {
		return "", fmt.Errorf("take apart %s: %w", deb, err)
	}
	l := loader{ctx: ctx, found: found, into: picked, seen: map[string]bool{}}
	for _, m := range wanted {
		if err := l.add(m); err != nil {
			return "", fmt.Errorf("take apart %s: %w", deb, err)
		}
	}
	if err := os.WriteFile(filepath.Join(picked, "load"), []byte(strings.Join(l.order, "\n")), 0o644); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(picked, "complete"), nil, 0o644); err != nil {
		return "", err
	}
	into := filepath.Join(cache, "kernel-"+name+suffix)
	if err := os.Rename(picked, into); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return into, nil
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

// suiteEntries are all files but the init program.
func suiteEntries(ctx context.Context, kernel string, s Suite) ([]entry, error) {
	t := tree{dirs: map[string]bool{}}
	t.entries = append(t.entries, entry{name: "dev", mode: modeDir | 0o755},
		entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	load, err := os.ReadFile(filepath.Join(kernel, "load"))
	if err != nil {
		return nil, err
	}
	for _, m := range strings.Fields(string(load)) {
		if err := t.copy(filepath.Join(kernel, m+".ko"), "/modules/"+m+".ko"); err != nil {
			return nil, err
		}
	}
	t.file("/modules/load", load)
	if err := t.copy(s.Program, "/program"); err != nil {
		return nil, err
	}
	t.file("/args", []byte(strings.Join(s.Args, "\n")))
	t.file("/env", []byte(strings.Join(s.Env, "\n")))
	for _, name := range s.Tools {
		if err := t.tool(ctx, name); err != nil {
			return nil, err
		}
	}
	return t.entries, nil
}

// tree collects the files of an initramfs with the folders above them.
type tree struct {
	entries []entry
	dirs    map[string]bool
}

func (t *tree) file(path string, content []byte) {
	var above []string
	for d := filepath.Dir(path); d != "/" && !t.dirs[d]; d = filepath.Dir(d) {
		above = append(above, d)
	}
	for _, d := range slices.Backward(above) {
		t.dirs[d] = true
		t.entries = append(t.entries, entry{name: d[1:], mode: modeDir | 0o755})
	}
	t.entries = append(t.entries, entry{name: path[1:], mode: modeFile | 0o755, data: content})
}

func (t *tree) copy(from, to string) error {
	b, err := os.ReadFile(from)
	if err == nil {
		t.file(to, b)
	}
	return err
}

// tool copies a program of the host's with the libraries that it names.
func (t *tree) tool(ctx context.Context, name string) error {
	path, err := output(ctx, "", "which", name)
	if err != nil {
		return err
	}
	if path, err = filepath.EvalSymlinks(strings.TrimSpace(path)); err != nil {
		return err
	}
	if err := t.copy(path, "/bin/"+name); err != nil {
		return err
	}
	libraries, err := output(ctx, "", "ldd", path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(libraries) {
		for _, word := range strings.Fields(line) {
			if !strings.HasPrefix(word, "/") || t.dirs[word] {
				continue
			}
			t.dirs[word] = true // once is enough
			if err := t.copy(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}
