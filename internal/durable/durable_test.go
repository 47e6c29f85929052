package durable

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPowerCut shows that what WriteFile has written is there after a power cut, whether
// it is new or replaces something. The file system is a real one, on a loop device,
// which is told to drop what isn't on the disk yet.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	image, at := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Skipf("no ext4 here: %v %s", err, out)
	}
	// The thread has a mount namespace of its own and ends with the test.
	runtime.LockOSThread()
	if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); errors.Is(err, unix.EPERM) {
		t.Skip("mounting a file system needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
	mount := func() {
		if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
			t.Skipf("no loop device here: %v %s", err, out)
		}
	}
	mount()
	defer unix.Unmount(at, unix.MNT_DETACH) //nolint:errcheck // the namespace's end does it too
	old, fresh := filepath.Join(at, "old"), filepath.Join(at, "fresh")
	if err := os.WriteFile(old, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	syncAll(t, at)
	if err := errors.Join(WriteFile(old, []byte("after")), WriteFile(fresh, []byte("after"))); err != nil {
		t.Fatal(err)
	}
	cutPower(t, at)
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	mount()
	for _, name := range []string{old, fresh} {
		if b, err := os.ReadFile(name); string(b) != "after" {
			t.Errorf("%s after the power cut: %q, %v", filepath.Base(name), b, err)
		}
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
}

// syncAll brings all of a file system to the disk.
func syncAll(t *testing.T, at string) {
	t.Helper()
	f, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}

// cutPower ends a file system at once, as fstests do: EXT4_IOC_SHUTDOWN with
// EXT4_GOING_FLAGS_NOLOGFLUSH (include/uapi/linux/ext4.h).
func cutPower(t *testing.T, at string) {
	t.Helper()
	const shutdown, noLogFlush = 0x8004587d, 2
	f, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		t.Fatal(err)
	}
}

// TestWriteFile shows who may read the file, that a failure keeps the old content, and
// that what a crash left isn't in the way.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "state")
	if err := os.WriteFile(name+".new", []byte("a longer rest of a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(name, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Mkdir(name+".new", 0o700); err != nil { // now it can't be written
		t.Fatal(err)
	}
	err := WriteFile(name, []byte("second"))
	if b, readErr := os.ReadFile(name); err == nil || string(b) != "first" {
		t.Errorf("after %v: %q, %v", err, b, readErr)
	}
	if err := WriteFile(filepath.Join(dir, "absent", "state"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that isn't there: %v", err)
	}
}
