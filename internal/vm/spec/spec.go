// Package spec turns a VirtualMachineInstance into what this node's runtime
// needs to know of it: a Spec, a plain value that is kept beside the guest.
//
// In: the instance as the API holds it, and its pod's identity (addresses,
// MAC). Out: a Spec, or an error for each field that asks for what this runtime
// can't do, with its path. It is pure: no disks, no images, no clocks.
package spec

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Spec is one guest.
type Spec struct {
	ID               string        `json:"id"`     // the instance's UID
	PodUID           string        `json:"podUID"` // the pod that stands for it
	Namespace        string        `json:"namespace"`
	Name             string        `json:"name"`
	Hostname         string        `json:"hostname"`
	MAC              string        `json:"mac"`
	Addresses        []netip.Addr  `json:"addresses"` // the primary first
	DNS              []netip.Addr  `json:"dns,omitempty"`
	Search           []string      `json:"search,omitempty"`
	FirmwareUUID     string        `json:"firmwareUUID"` // stable over restarts
	FirmwareSerial   string        `json:"firmwareSerial,omitempty"`
	MemoryMiB        int64         `json:"memoryMiB"`
	CPU              CPU           `json:"cpu"`
	Kernel           *Kernel       `json:"kernel,omitempty"`
	Disks            []Disk        `json:"disks,omitempty"`
	RebootTerminates bool          `json:"rebootTerminates,omitempty"`
	StartPaused      bool          `json:"startPaused,omitempty"`
	Grace            time.Duration `json:"grace"` // between the power button and the end

	// Environment is a file of variables, one NAME=value a line, that the guest can read.
	Environment string `json:"environment,omitempty"`

	Readiness *kubevirtv1.Probe      `json:"readiness,omitempty"`
	Ports     []corev1.ContainerPort `json:"ports,omitempty"` // what a probe may name
}

// CPU is the topology and the model; an empty model is the best there is.
type CPU struct {
	Sockets uint32 `json:"sockets"`
	Cores   uint32 `json:"cores"`
	Threads uint32 `json:"threads"`
	Model   string `json:"model,omitempty"`
}

// Kernel is booted directly; the files are in an image of the local store.
type Kernel struct {
	Image  string `json:"image"`
	Path   string `json:"path"`
	Initrd string `json:"initrd,omitempty"`
	Args   string `json:"args,omitempty"`
}

// Bus is how the guest sees a disk.
type Bus string

const (
	VirtIO Bus = "virtio"
	SATA   Bus = "sata"
	SCSI   Bus = "scsi"
)

// Disk is one disk or CD of the guest.
type Disk struct {
	Name      string `json:"name"`
	Path      string `json:"path,omitempty"`   // of a host disk; empty: a scratch disk
	Create    int64  `json:"create,omitempty"` // bytes, if it isn't there
	Bus       Bus    `json:"bus"`
	CDROM     bool   `json:"cdrom,omitempty"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
	Serial    string `json:"serial,omitempty"`
	BootIndex uint   `json:"bootIndex,omitempty"` // 0: not in the boot order
}

// Scratch reports whether the disk lives and dies with the instance.
func (d Disk) Scratch() bool { return d.Path == "" }
