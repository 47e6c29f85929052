package spec

import (
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// disks joins spec.domain.devices.disks with spec.volumes by name.
func disks(spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path, errs field.ErrorList) ([]Disk, field.ErrorList) {
	volumes := map[string]int{}
	for i, v := range spec.Volumes {
		volumes[v.Name] = i
	}
	used := map[string]bool{}
	var out []Disk
	for i := range spec.Domain.Devices.Disks {
		d := &spec.Domain.Devices.Disks[i]
		where := path.Child("domain", "devices", "disks").Index(i)
		at, ok := volumes[d.Name]
		if !ok {
			errs = append(errs, field.Invalid(where.Child("name"), d.Name, "there is no volume of this name"))
			continue
		}
		used[d.Name] = true
		var disk Disk
		disk, errs = target(d, where, errs)
		disk, errs = source(disk, &spec.Volumes[at], path.Child("volumes").Index(at), errs)
		out = append(out, disk)
	}
	for i, v := range spec.Volumes {
		if !used[v.Name] {
			errs = append(errs, field.Invalid(path.Child("volumes").Index(i).Child("name"), v.Name, "there is no disk of this name"))
		}
	}
	return bootOrder(out), errs
}

// target reads how the guest sees the disk.
func target(d *kubevirtv1.Disk, path *field.Path, errs field.ErrorList) (Disk, field.ErrorList) {
	disk := Disk{Name: d.Name, Serial: d.Serial, Bus: VirtIO}
	if d.BootOrder != nil {
		disk.BootIndex = *d.BootOrder
	}
	var bus kubevirtv1.DiskBus
	switch {
	case d.LUN != nil:
		return disk, append(errs, field.Forbidden(path.Child("lun"), "isn't supported; use disk"))
	case d.CDRom != nil:
		disk.CDROM, disk.ReadOnly, disk.Bus = true, true, SATA
		bus, path = d.CDRom.Bus, path.Child("cdrom", "bus")
	case d.Disk != nil:
		disk.ReadOnly = d.Disk.ReadOnly
		bus, path = d.Disk.Bus, path.Child("disk", "bus")
	}
	switch {
	case bus == "":
	case disk.CDROM && bus == kubevirtv1.DiskBusVirtio, bus != kubevirtv1.DiskBusVirtio && bus != kubevirtv1.DiskBusSATA && bus != kubevirtv1.DiskBusSCSI:
		errs = append(errs, field.NotSupported(path, bus, []Bus{VirtIO, SATA, SCSI}))
	default:
		disk.Bus = Bus(bus)
	}
	return disk, errs
}

// source reads where the disk's content is.
func source(disk Disk, v *kubevirtv1.Volume, path *field.Path, errs field.ErrorList) (Disk, field.ErrorList) {
	switch {
	case v.HostDisk != nil:
		where := path.Child("hostDisk")
		disk.Path = v.HostDisk.Path
		if !filepath.IsAbs(disk.Path) {
			errs = append(errs, field.Invalid(where.Child("path"), disk.Path, "must be an absolute path on the node"))
		}
		if v.HostDisk.Type == kubevirtv1.HostDiskExistsOrCreate {
			disk.Create = v.HostDisk.Capacity.Value()
			if disk.Create <= 0 {
				errs = append(errs, field.Required(where.Child("capacity"), "say how large a disk to create"))
			}
		}
	case v.EmptyDisk != nil:
		disk.Create = v.EmptyDisk.Capacity.Value()
		if disk.Create <= 0 {
			errs = append(errs, field.Required(path.Child("emptyDisk", "capacity"), "say how large the disk is"))
		}
	default:
		errs = append(errs, field.Forbidden(path, "this kind of volume isn't supported yet; use hostDisk or emptyDisk"))
	}
	return disk, errs
}

// bootOrder lets a machine whose manifest names no order boot from its first disk.
func bootOrder(disks []Disk) []Disk {
	for _, d := range disks {
		if d.BootIndex > 0 {
			return disks
		}
	}
	if len(disks) > 0 {
		disks[0].BootIndex = 1
	}
	return disks
}
