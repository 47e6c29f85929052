package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseLock(t *testing.T) {
	for _, tc := range []struct {
		line  string
		pid   int
		inode uint64
	}{
		{"1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", 4711, 1234},
		{"2: POSIX  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", 0, 0},
		{"1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:1234 0 EOF", 0, 0}, // it waits
		{"3: OFDLCK ADVISORY  READ  -1 00:06:2062 0 EOF", 0, 0},
		{"1: FLOCK", 0, 0},
		{"", 0, 0},
	} {
		if pid, inode := parseLock(tc.line); pid != tc.pid || inode != tc.inode {
			t.Errorf("%q: got %d %d, want %d %d", tc.line, pid, inode, tc.pid, tc.inode)
		}
	}
}

func TestPrepareDataDir(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	release, err := prepareDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := lockHolder(filepath.Join(dir, lockFile)); got != os.Getpid() {
		t.Errorf("the lock is held by %d, want %d", got, os.Getpid())
	}
	if _, err := prepareDataDir(dir); err == nil || !strings.Contains(err.Error(), "another Portico (process ") {
		t.Errorf("a second instance: %v", err)
	}
	release()
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	if release, err = prepareDataDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release()
	if names, err := entries(dir); err != nil || len(names) != 2 {
		t.Errorf("of a run that stored something are left %v, %v", names, err)
	}
}

// A run like the last one leaves its note alone; another's, or a damaged one, is replaced.
func TestRunRecord(t *testing.T) {
	o := &options{dataDir: t.TempDir(), nodeName: "a", vm: "off"}
	file := filepath.Join(o.dataDir, runFile)
	write := func() os.FileInfo {
		t.Helper()
		if err := o.writeRunRecord(); err != nil {
			t.Fatal(err)
		}
		if last, err := readRunRecord(o.dataDir); err != nil || last.NodeName != o.nodeName || last.VM != o.vm {
			t.Errorf("noted %+v, %v", last, err)
		}
		is, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	first := write()
	if again := write(); !os.SameFile(first, again) {
		t.Error("written again, and nothing had changed")
	}
	o.vm = "auto"
	write()
	for _, damaged := range []string{"", "{"} { // by a power cut, say
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		write()
	}
}
