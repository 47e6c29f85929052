package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"portico.dev/portico/internal/vm/spec"
)

// bootSector is a master boot record of 16-bit code that writes message to the first
// serial port and halts: the smallest disk that a machine can boot from.
func bootSector(message string) []byte {
	code := []byte{
		0x31, 0xC0, // xor ax, ax
		0x8E, 0xD8, // mov ds, ax
		0xBE, 0x15, 0x7C, // mov si, message: the BIOS loads us at 0x7C00
		0xAC,       // next: lodsb
		0x84, 0xC0, // test al, al
		0x74, 0x06, // jz halt
		0xBA, 0xF8, 0x03, // mov dx, 0x3F8: the first serial port
		0xEE,       // out dx, al
		0xEB, 0xF5, // jmp next
		0xF4,       // halt: hlt
		0xEB, 0xFD, // jmp halt
	}
	disk := make([]byte, 1<<20) // QEMU wants whole sectors, and room for its geometry
	copy(disk, append(append(code, message...), 0))
	disk[510], disk[511] = 0x55, 0xAA
	return disk
}

// VM-03: a machine boots from a disk by path, raw or qcow2.
func TestBootFromDisk(t *testing.T) {
	const message = "booted from a disk by path"
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			m := daemon(t, t.TempDir())
			path := filepath.Join(t.TempDir(), "disk.img")
			if err := os.WriteFile(path, bootSector(message), 0o600); err != nil {
				t.Fatal(err)
			}
			if format == "qcow2" {
				raw := path
				path += ".qcow2"
				if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, bytes.TrimSpace(out))
				}
			}
			s := testSpec("disk-" + format)
			s.Kernel = nil
			s.Disks = []spec.Disk{{Name: "root", Bus: spec.VirtIO, Path: path}}
			g, err := m.Start(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			attach(t, g).expect(t, message)
			if err := g.Stop(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			gone(t, m, g)
		})
	}
}
