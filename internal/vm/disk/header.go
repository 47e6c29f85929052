package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// headerSize is what sniff wants of a file: enough for every magic below and for
// a version 3 qcow2 header.
const headerSize = 104

// ErrUnsafe says that the image would make QEMU read other files of the host.
var ErrUnsafe = errors.New("the image refers to another file")

// foreign are the magics of formats that we don't run, at their offsets.
var foreign = []struct {
	name   string
	offset int
	magic  string
}{
	{"vmdk", 0, "KDMV"},
	{"vmdk", 0, "COWD"},
	{"vmdk", 0, "# Disk DescriptorFile"},
	{"vhdx", 0, "vhdxfile"},
	{"vpc", 0, "conectix"},
	{"qed", 0, "QED\x00"},
	{"vdi", 64, "\x7f\x10\xda\xbe"},
	{"luks", 0, "LUKS\xba\xbe"},
}

const qcowMagic = "QFI\xfb"

// Incompatible features of version 3 (QEMU's docs/interop/qcow2.txt).
const (
	featureCorrupt      = 1 << 1
	featureExternalData = 1 << 2
)

// sniff tells the format from the first bytes of an image and refuses what must
// not be opened.
func sniff(header []byte) (format string, err error) {
	for _, f := range foreign {
		if len(header) > f.offset && bytes.HasPrefix(header[f.offset:], []byte(f.magic)) {
			return "", fmt.Errorf("it is a %s image; convert it with: qemu-img convert -O qcow2 FILE NEW", f.name)
		}
	}
	if !bytes.HasPrefix(header, []byte(qcowMagic)) {
		return "raw", nil
	}
	if len(header) < 72 {
		return "", errors.New("its qcow2 header is cut off; copy the image again")
	}
	version := binary.BigEndian.Uint32(header[4:])
	if version != 2 && version != 3 {
		return "", fmt.Errorf("its qcow2 version is %d, want 2 or 3; convert it with: qemu-img convert -O qcow2 FILE NEW", version)
	}
	if binary.BigEndian.Uint64(header[8:]) != 0 {
		return "", fmt.Errorf("%w (a backing file); make it one file with: qemu-img convert -O qcow2 FILE NEW", ErrUnsafe)
	}
	if version == 3 {
		if len(header) < headerSize {
			return "", errors.New("its qcow2 header is cut off; copy the image again")
		}
		switch features := binary.BigEndian.Uint64(header[72:]); {
		case features&featureExternalData != 0:
			return "", fmt.Errorf("%w (an external data file); make it one file with: qemu-img convert -O qcow2 FILE NEW", ErrUnsafe)
		case features&featureCorrupt != 0:
			return "", errors.New("it is marked as corrupt; repair it with: qemu-img check -r all FILE")
		}
	}
	return "qcow2", nil
}
