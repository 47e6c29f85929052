package guest

import (
	"bytes"
	"context"
	"debug/elf"
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
	// Tools are programs that it runs, found by PATH here and there, or by their paths here.
	Tools []string
	// Files are files and folders of the host's that it finds where they are here.
	Files []string
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
	k, err := kernel(ctx, cache, selection{"-suite", suitePackage, s.Modules}, o.Logf)
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
	for _, path := range s.Files {
		err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			return t.copy(file, file)
		})
		if err != nil {
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
	if err := t.copy(path, "/bin/"+filepath.Base(name)); err != nil {
		return err
	}
	if static, err := isStatic(path); static || err != nil {
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

// isStatic says whether a program needs no libraries, about which ldd would complain.
func isStatic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
