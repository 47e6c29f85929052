package etcd

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// limitedDir is a folder on a file system of its own, of so many bytes. It vanishes with
// this mount namespace.
func limitedDir(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// occupy leaves so many bytes of the file system free.
func occupy(t *testing.T, dir string, leave int64) (free func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size int64
	for {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			t.Fatal(err)
		}
		more := int64(s.Bavail)*s.Frsize - leave
		if more <= 0 {
			break
		}
		// Others take space meanwhile.
		if err := unix.Fallocate(int(f.Fd()), 0, size, more); err == nil {
			size += more
		} else if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}

// OPS-05: a full file system under the embedded store.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := limitedDir(t, 500<<20)
	dir := filepath.Join(disk, "data")
	s := startServer(t, dir)
	for _, leave := range []int64{100 << 20, 0} { // little, and nothing at all
		w := during(t, fmt.Sprintf("disk-%d", leave>>20), func(w *writer) {
			free := occupy(t, disk, leave)
			eventually(t, 20*time.Second, "writes fail", func() bool { return w.failed.Load() > 3 })
			w.mu.Lock()
			err := w.last
			w.mu.Unlock()
			var status apierrors.APIStatus
			if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage || !strings.Contains(err.Error(), "no space left in "+dir+"/etcd: free ") {
				t.Errorf("%d free: it says %v", leave, err)
			}
			if _, err := s.kube.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("%d free: reads: %v", leave, err)
			}
			err = s.kube.CoreV1().Services("default").Delete(t.Context(), w.acked[0], metav1.DeleteOptions{})
			if (leave > 0) != (err == nil) {
				t.Errorf("%d free: a delete gives %v", leave, err)
			}
			if err == nil {
				w.mu.Lock()
				w.acked = w.acked[1:]
				w.mu.Unlock()
			}
			free()
			t.Logf("writes went on %v after there was room", w.goesOn(t).Round(time.Millisecond))
		}, s)
		w.check(t, s.kube)
	}
	occupy(t, disk, 10<<20)
	s.kill()
	out, code := portico(t, upArgs(dir)...)
	if code != 1 || !strings.Contains(out, "portico: no space left in "+dir+"/etcd: the store needs ") {
		t.Errorf("a start without room: %d %s", code, out)
	}
	if err := os.Remove(filepath.Join(disk, "other")); err != nil {
		t.Fatal(err)
	}
	again := startServer(t, dir)
	if _, err := create(t.Context(), again.kube, "after"); err != nil {
		t.Error(err)
	}
}
