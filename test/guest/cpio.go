package guest

import (
	"fmt"
	"io"
)

// Modes of entries, from stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// entry is a file of an initramfs.
type entry struct {
	name         string // without a leading slash
	mode         uint32
	major, minor uint32 // of a device
	data         []byte
}

// writeCPIO writes entries as the "new ASCII" archive that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). Times are zero
// so that equal content gives equal bytes.
func writeCPIO(w io.Writer, entries []entry) error {
	for i, e := range append(entries, entry{name: "TRAILER!!!"}) {
		// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor,
		// devminor, rdevmajor, rdevminor, namesize, check
		header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			i+1, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
		name := header + e.name + "\x00"
		if err := writePadded(w, []byte(name)); err != nil {
			return err
		}
		if err := writePadded(w, e.data); err != nil {
			return err
		}
	}
	return nil
}

// writePadded fills up to a multiple of four bytes.
func writePadded(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, (4-len(b)%4)%4))
	return err
}
