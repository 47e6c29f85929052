package disk

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// qcow2 makes a header with a backing offset and features.
func qcow2(version uint32, backing, features uint64) []byte {
	h := make([]byte, headerSize)
	copy(h, qcowMagic)
	binary.BigEndian.PutUint32(h[4:], version)
	binary.BigEndian.PutUint64(h[8:], backing)
	binary.BigEndian.PutUint64(h[72:], features)
	return h
}

func TestSniff(t *testing.T) {
	vdi := make([]byte, headerSize)
	copy(vdi[64:], "\x7f\x10\xda\xbe")
	for _, tc := range []struct {
		name, want, wrong string
		header            []byte
	}{
		{"boot sector", "raw", "", []byte{0xeb, 0x63}},
		{"version 2", "qcow2", "", qcow2(2, 0, 0)},
		{"version 3", "qcow2", "", qcow2(3, 0, 0)},
		{"dirty is fine", "qcow2", "", qcow2(3, 0, 1)},
		{"backing file", "", "backing file", qcow2(3, 200, 0)},
		{"external data", "", "external data file", qcow2(3, 0, featureExternalData)},
		{"corrupt", "", "qemu-img check", qcow2(3, 0, featureCorrupt)},
		{"version 1", "", "version is 1", qcow2(1, 0, 0)},
		{"cut off", "", "cut off", qcow2(3, 0, 0)[:80]},
		{"vmdk", "", "vmdk", []byte("KDMV\x01")},
		{"vdi", "", "vdi", vdi},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := sniff(tc.header)
			if got != tc.want {
				t.Errorf("format %q, want %q", got, tc.want)
			}
			if (err == nil) != (tc.wrong == "") || (err != nil && !strings.Contains(err.Error(), tc.wrong)) {
				t.Errorf("error %v, want one about %q", err, tc.wrong)
			}
		})
	}
}

// VM-03: real images, as qemu-img makes them.
func TestInspect(t *testing.T) {
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is missing: apt-get install qemu-utils")
	}
	dir := t.TempDir()
	create := func(name string, args ...string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		cmd := exec.Command(qemuImg, append([]string{"create", "-q"}, append(args, path, "1M")...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return path
	}
	good := create("good.qcow2", "-f", "qcow2")
	raw := create("plain.img", "-f", "raw")
	backed := create("backed.qcow2", "-f", "qcow2", "-b", good, "-F", "qcow2")
	external := create("external.qcow2", "-f", "qcow2", "-o", "data_file="+filepath.Join(dir, "data.raw"))
	cut := filepath.Join(dir, "cut.qcow2")
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(b[20:], 63) // cluster bits out of range
	if err := os.WriteFile(cut, b, 0o600); err != nil {
		t.Fatal(err)
	}

	for path, want := range map[string]string{good: "qcow2", raw: "raw"} {
		if got, err := Inspect(t.Context(), qemuImg, path); err != nil || got.Format != want || got.Block {
			t.Errorf("%s: got %+v, %v, want %s", path, got, err, want)
		}
	}
	for _, path := range []string{backed, external} {
		if _, err := Inspect(t.Context(), qemuImg, path); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: got %v, want ErrUnsafe", path, err)
		}
	}
	if _, err := Inspect(t.Context(), qemuImg, cut); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged image: got %v", err)
	}
	if _, err := Inspect(t.Context(), "/nowhere/qemu-img", good); err == nil || !strings.Contains(err.Error(), "qemu-img") {
		t.Errorf("without qemu-img: got %v", err)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), dir, "/dev/null"} {
		if _, err := Inspect(t.Context(), qemuImg, path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that names it", path, err)
		}
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.raw")
	for range 2 { // the second time it exists and is kept
		if err := Create(path, 1000); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != 1024 {
			t.Fatalf("got %v, %v, want 1024 bytes", info, err)
		}
	}
	if err := Create(filepath.Join(path, "below"), 1); err == nil {
		t.Error("created a file below a file")
	}
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte{})
	f.Add(qcow2(3, 0, 0))
	f.Add(qcow2(3, 1, 4))
	f.Add([]byte("KDMV"))
	f.Fuzz(func(t *testing.T, header []byte) {
		format, err := sniff(header)
		if err == nil && format == "qcow2" && binary.BigEndian.Uint64(header[8:]) != 0 {
			t.Error("an image with a backing file passed")
		}
		if (format == "") != (err != nil) {
			t.Errorf("format %q with error %v", format, err)
		}
	})
}
