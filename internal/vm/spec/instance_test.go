package spec

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var identity = Identity{
	PodUID: "pod-1", MAC: net.HardwareAddr{2, 0x70, 0x6f, 0, 0, 1}, Addresses: []netip.Addr{netip.MustParseAddr("10.245.0.2")},
}

// instance reads an instance's spec as users write it.
func instance(t *testing.T, text string) *kubevirtv1.VirtualMachineInstance {
	t.Helper()
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "vm", UID: "vmi-1"}}
	if err := yaml.UnmarshalStrict([]byte(text), &vmi.Spec); err != nil {
		t.Fatal(err)
	}
	return vmi
}

const bootable = `
domain:
  devices: {disks: [{name: root, disk: {bus: virtio}}]}
  memory: {guest: 512Mi}
volumes: [{name: root, hostDisk: {path: /srv/root.qcow2, type: Disk}}]
`

// VM-03
func TestFromInstance(t *testing.T) {
	s, err := FromInstance(instance(t, `
hostname: web-1
terminationGracePeriodSeconds: 7
startStrategy: Paused
domain:
  cpu: {cores: 2, sockets: 3, model: Haswell}
  memory: {guest: 1500k}
  machine: {type: q35}
  rebootPolicy: Terminate
  firmware:
    uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223
    serial: abc
    kernelBoot:
      kernelArgs: console=ttyS0
      container: {image: portico.local/guest, kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
  devices:
    interfaces: [{name: default, masquerade: {}}]
    disks:
    - {name: data, serial: d1, bootOrder: 2, disk: {bus: scsi, readonly: true}}
    - {name: cd, cdrom: {}}
    - {name: scratch}
    - {name: grown, disk: {bus: sata}}
volumes:
- {name: scratch, emptyDisk: {capacity: 1Gi}}
- {name: cd, hostDisk: {path: /srv/a.iso, type: Disk}}
- {name: data, hostDisk: {path: /srv/d.img, type: Disk}}
- {name: grown, hostDisk: {path: /srv/g.img, type: DiskOrCreate, capacity: 1Mi}}
`), identity)
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != "vmi-1" || s.Hostname != "web-1" || s.MAC != "02:70:6f:00:00:01" || s.Grace != 7*time.Second || !s.StartPaused || !s.RebootTerminates {
		t.Errorf("spec %+v", s)
	}
	if s.MemoryMiB != 2 || s.CPU != (CPU{Sockets: 3, Cores: 2, Threads: 1, Model: "Haswell"}) {
		t.Errorf("memory %d, cpu %+v", s.MemoryMiB, s.CPU)
	}
	if s.FirmwareUUID != "5d307ca9-b3ef-428c-8861-06e72d69f223" || s.FirmwareSerial != "abc" {
		t.Errorf("firmware %s %s", s.FirmwareUUID, s.FirmwareSerial)
	}
	if *s.Kernel != (Kernel{"portico.local/guest", "/boot/vmlinuz", "/boot/initrd", "console=ttyS0"}) {
		t.Errorf("kernel %+v", s.Kernel)
	}
	want := []Disk{
		{Name: "data", Path: "/srv/d.img", Bus: SCSI, ReadOnly: true, Serial: "d1", BootIndex: 2},
		{Name: "cd", Path: "/srv/a.iso", Bus: SATA, CDROM: true, ReadOnly: true},
		{Name: "scratch", Create: 1 << 30, Bus: VirtIO},
		{Name: "grown", Path: "/srv/g.img", Create: 1 << 20, Bus: SATA},
	}
	for i, d := range s.Disks {
		if d != want[i] {
			t.Errorf("disk %d: %+v, want %+v", i, d, want[i])
		}
	}
}

func TestDefaults(t *testing.T) {
	vmi := instance(t, bootable)
	vmi.Spec.Domain.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
	yes := true
	vmi.OwnerReferences = []metav1.OwnerReference{{Kind: "VirtualMachine", UID: "vm-1", Controller: &yes}}
	s, err := FromInstance(vmi, identity)
	if err != nil {
		t.Fatal(err)
	}
	if s.Hostname != "vm" || s.Grace != 30*time.Second || s.MemoryMiB != 512 || s.CPU != (CPU{Sockets: 2, Cores: 1, Threads: 1}) || s.Disks[0].BootIndex != 1 {
		t.Errorf("spec %+v", s)
	}
	// VM-03: the next instance of the same machine has the same firmware.
	next := vmi.DeepCopy()
	next.UID = "vmi-2"
	n, err := FromInstance(next, identity)
	if err != nil || n.FirmwareUUID != s.FirmwareUUID || len(s.FirmwareUUID) != 36 {
		t.Errorf("firmware UUIDs %s and %s, %v", s.FirmwareUUID, n.FirmwareUUID, err)
	}
	next.OwnerReferences = nil
	if n, _ = FromInstance(next, identity); n.FirmwareUUID == s.FirmwareUUID {
		t.Error("two machines have one firmware UUID")
	}
}

// What can't be done is refused with the field's path, all of it at once.
func TestRefused(t *testing.T) {
	for path, text := range map[string]string{
		"spec.domain.devices.disks":                            `domain: {memory: {guest: 1Gi}, devices: {}}`,
		"spec.domain.memory.guest":                             strings.Replace(bootable, "memory: {guest: 512Mi}", "cpu: {cores: 1}", 1),
		"spec.domain.memory.guest: Invalid":                    strings.Replace(bootable, "512Mi", "5k", 1),
		"spec.domain.machine.type":                             strings.Replace(bootable, "domain:", "domain:\n  machine: {type: microvm}", 1),
		"spec.domain.firmware.bootloader.efi":                  strings.Replace(bootable, "domain:", "domain:\n  firmware: {bootloader: {efi: {}}}", 1),
		"spec.domain.firmware.kernelBoot.container: Required":  strings.Replace(bootable, "domain:", "domain:\n  firmware: {kernelBoot: {}}", 1),
		"spec.domain.firmware.kernelBoot.container.kernelPath": strings.Replace(bootable, "domain:", "domain:\n  firmware: {kernelBoot: {container: {image: a}}}", 1),
		"spec.domain.cpu: Invalid":                             strings.Replace(bootable, "domain:", "domain:\n  cpu: {cores: 100, sockets: 100}", 1),
		"spec.domain.devices.interfaces[1]":                    strings.Replace(bootable, "devices: {", "devices: {interfaces: [{name: a, bridge: {}}, {name: b, bridge: {}}], ", 1),
		"spec.domain.devices.interfaces[0].model":              strings.Replace(bootable, "devices: {", "devices: {interfaces: [{name: a, model: e1000, bridge: {}}], ", 1),
		"spec.domain.devices.disks[0].disk.bus":                strings.Replace(bootable, "bus: virtio", "bus: usb", 1),
		"spec.domain.devices.disks[0].name":                    strings.Replace(bootable, "disks: [{name: root", "disks: [{name: other", 1),
		"spec.volumes[0].name":                                 strings.Replace(bootable, "disks: [{name: root", "disks: [{name: other", 1),
		"spec.volumes[0].hostDisk.path":                        strings.Replace(bootable, "/srv/", "srv/", 1),
		"spec.volumes[0].hostDisk.capacity":                    strings.Replace(bootable, "type: Disk", "type: DiskOrCreate", 1),
		"spec.volumes[0]: Forbidden":                           strings.Replace(bootable, "hostDisk: {path: /srv/root.qcow2, type: Disk}", "cloudInitNoCloud: {userData: x}", 1),
	} {
		_, err := FromInstance(instance(t, text), identity)
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error at %s", err, path)
		}
	}
}
