// Package qemu writes QEMU's command line.
//
// In: a Spec, the files that were found for it, and the accelerator. Out: the
// arguments. It is pure and starts nothing.
//
// Whatever a person may have written goes into JSON arguments or into arguments
// of its own, never into QEMU's comma-separated lists, where a comma in a path
// would become another option.
package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"portico.dev/portico/internal/vm/spec"
)

// Files are the host's side of a guest. Descriptors are those that QEMU
// inherits; 0 means none.
type Files struct {
	Kernel, Initrd string
	Environment    string     // variables for the guest; empty: none
	Disks          []DiskFile // one for each of the Spec's, in order

	MonitorFD int // a listening unix socket
	ConsoleFD int // a listening unix socket
	TapFD     int // an open tap with IFF_VNET_HDR
}

// DiskFile is an image that was looked at; Format is always given to QEMU, which
// must never guess one from bytes that a guest can write.
type DiskFile struct {
	Path   string
	Format string // raw or qcow2
	Block  bool   // a block device, not a file
}

// tbSizeMiB caps the cache of translated code, which would otherwise take up to
// a gigabyte for each emulated guest.
const tbSizeMiB = 128

// environmentName is where a guest finds its variables, under
// /sys/firmware/qemu_fw_cfg/by_name (Linux, ABI/testing/sysfs-firmware-qemu_fw_cfg; QEMU
// leaves opt/ to its users, a reversed domain each).
const environmentName = "opt/dev.portico/environment"

// Args is what QEMU is started with. The guest waits for `cont`, so that whoever
// starts it has noted it down and listens to its console before it runs.
func Args(s spec.Spec, f Files, kvm bool) []string {
	a := args{
		"-name", "guest=" + s.Namespace + "/" + s.Name,
		"-nodefaults", "-no-user-config", "-display", "none",
		"-msg", "timestamp=on",
		// A seccomp filter: QEMU needs no new processes and no new privileges.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-S",
		// The end state stays readable until we have seen it.
		"-no-shutdown",
		"-machine", "q35",
	}
	if s.RebootTerminates {
		a.add("-action", "reboot=shutdown")
	}
	a.processor(s.CPU, kvm)
	a.add("-m", strconv.FormatInt(s.MemoryMiB, 10)+"M")
	a.add("-uuid", s.FirmwareUUID)
	if s.FirmwareSerial != "" {
		a.add("-smbios", "type=1,serial="+strings.ReplaceAll(s.FirmwareSerial, ",", ",,"))
	}
	a.add("-rtc", "base=utc")
	a.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", f.MonitorFD))
	a.add("-mon", "chardev=monitor,mode=control")
	a.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d,server=on,wait=off", f.ConsoleFD))
	a.add("-serial", "chardev:console")
	// Guests without RDRAND would wait for entropy before their first DHCP request.
	a.add("-device", object{"driver": "virtio-rng-pci", "id": "rng0"}.json())
	if f.TapFD != 0 {
		a.add("-netdev", fmt.Sprintf("tap,id=net0,fd=%d", f.TapFD))
		// No option ROM: guests don't boot from the network, and the ROM is a
		// Debian package of its own.
		a.add("-device", object{"driver": "virtio-net-pci", "id": "nic0", "netdev": "net0", "mac": s.MAC, "romfile": ""}.json())
	}
	if f.Environment != "" {
		a.add("-fw_cfg", "name="+environmentName+",file="+strings.ReplaceAll(f.Environment, ",", ",,"))
	}
	a.disks(s.Disks, f.Disks)
	if s.Kernel != nil {
		a.add("-kernel", f.Kernel)
		if f.Initrd != "" {
			a.add("-initrd", f.Initrd)
		}
		if s.Kernel.Args != "" {
			a.add("-append", s.Kernel.Args)
		}
	}
	return a
}

type args []string

func (a *args) add(words ...string) { *a = append(*a, words...) }

// object is a -device or -blockdev in QEMU's JSON syntax.
type object map[string]any

func (o object) json() string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings, numbers and booleans always encode
	}
	return string(b)
}

func (a *args) processor(c spec.CPU, kvm bool) {
	model := c.Model
	switch {
	case kvm:
		a.add("-accel", "kvm")
		if oneOfDefault(model) {
			model = "host"
		}
	default:
		a.add("-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", tbSizeMiB))
		if oneOfDefault(model) {
			model = "max"
		}
	}
	a.add("-cpu", strings.ReplaceAll(model, ",", ",,"))
	a.add("-smp", fmt.Sprintf("%d,sockets=%d,cores=%d,threads=%d", c.Sockets*c.Cores*c.Threads, c.Sockets, c.Cores, c.Threads))
}

// oneOfDefault reports whether the model is "the best this node has".
func oneOfDefault(model string) bool {
	return model == "" || model == "host-model" || model == "host-passthrough"
}

func (a *args) disks(disks []spec.Disk, files []DiskFile) {
	for _, d := range disks {
		if d.Bus == spec.SCSI {
			a.add("-device", object{"driver": "virtio-scsi-pci", "id": "scsi0"}.json())
			break
		}
	}
	sata := 0
	for i, d := range disks {
		node := fmt.Sprintf("disk%d", i)
		driver := "file"
		if files[i].Block {
			driver = "host_device"
		}
		a.add("-blockdev", object{
			"driver": files[i].Format, "node-name": node, "read-only": d.ReadOnly,
			// Guests that trim give the space back.
			"discard": "unmap",
			"file":    object{"driver": driver, "filename": files[i].Path, "discard": "unmap"},
		}.json())
		dev := object{"id": node + "dev", "drive": node}
		switch {
		case d.Bus == spec.SATA:
			dev["driver"], dev["bus"] = "ide-hd", fmt.Sprintf("ide.%d", sata)
			sata++
		case d.Bus == spec.SCSI:
			dev["driver"], dev["bus"] = "scsi-hd", "scsi0.0"
		default:
			dev["driver"] = "virtio-blk-pci"
		}
		if d.CDROM {
			dev["driver"] = strings.Replace(dev["driver"].(string), "-hd", "-cd", 1)
		}
		if d.Serial != "" {
			dev["serial"] = d.Serial
		}
		if d.BootIndex > 0 {
			dev["bootindex"] = d.BootIndex
		}
		a.add("-device", dev.json())
	}
}
