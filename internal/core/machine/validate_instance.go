package machine

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	// maxVCPUs is what q35 starts without an interrupt remapper: the xAPIC's IDs
	// have 8 bits, and 255 is the broadcast.
	maxVCPUs = 255
	// minMemory is KubeVirt's lower bound. Whether a guest boots with so little is
	// between it and its kernel.
	minMemory = 1 << 20
	// maxSerial is KubeVirt's bound on serial numbers.
	maxSerial = 256
)

var (
	rebootPolicies = []kubevirtv1.RebootPolicy{kubevirtv1.RebootPolicyReboot, kubevirtv1.RebootPolicyTerminate}

	serialPattern = regexp.MustCompile(`^[A-Za-z0-9_.+-]+$`)
	uuidPattern   = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// validateInstanceSpec reports every wrong field of an instance's spec at once,
// first those that Portico can't honour, then those that nobody could.
func validateInstanceSpec(spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) field.ErrorList {
	errs, _ := split(newSupport(InstanceRules()).check(path, *spec))
	domain := path.Child("domain")
	errs = append(errs, validateCompute(&spec.Domain, domain)...)
	errs = append(errs, validateFirmware(spec.Domain.Firmware, domain.Child("firmware"))...)
	errs = append(errs, validateDisks(spec, path)...)
	errs = append(errs, validateNetwork(spec, path)...)
	errs = append(errs, validateProbes(spec, path)...)
	errs = append(errs, validateGrace(spec.TerminationGracePeriodSeconds, path.Child("terminationGracePeriodSeconds"))...)
	return append(errs, metav1validation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
}

func validateCompute(domain *kubevirtv1.DomainSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	// Each is checked alone, too: their product may wrap around.
	topology := Topology(&kubevirtv1.VirtualMachineInstanceSpec{Domain: *domain})
	sockets, cores, threads := uint64(topology.Sockets), uint64(topology.Cores), uint64(topology.Threads)
	if sockets > maxVCPUs || cores > maxVCPUs || threads > maxVCPUs || sockets*cores*threads > maxVCPUs {
		errs = append(errs, field.Invalid(path.Child("cpu"), "sockets × cores × threads", "a guest has at most 255 vCPUs"))
	}
	if policy := domain.RebootPolicy; policy != nil && !slices.Contains(rebootPolicies, *policy) {
		errs = append(errs, field.NotSupported(path.Child("rebootPolicy"), *policy, rebootPolicies))
	}
	where, memory := guestMemory(domain, path)
	switch {
	case memory.IsZero():
		errs = append(errs, field.Required(path.Child("memory", "guest"), "the guest's memory must be set here or in resources.requests.memory"))
	case memory.Cmp(*resource.NewQuantity(minMemory, resource.BinarySI)) < 0:
		errs = append(errs, field.Invalid(where, memory.String(), "must be at least 1Mi; write a unit, such as 512Mi"))
	}
	for _, name := range slices.Sorted(maps.Keys(domain.Resources.Requests)) {
		if quantity := domain.Resources.Requests[name]; quantity.Sign() < 0 {
			errs = append(errs, field.Invalid(path.Child("resources", "requests").Key(string(name)), quantity.String(), "must not be negative"))
		}
	}
	return errs
}

func validateFirmware(firmware *kubevirtv1.Firmware, path *field.Path) field.ErrorList {
	if firmware == nil {
		return nil
	}
	var errs field.ErrorList
	if firmware.UUID != "" && !uuidPattern.MatchString(string(firmware.UUID)) {
		errs = append(errs, field.Invalid(path.Child("uuid"), firmware.UUID, "must be a UUID, such as 5d307ca9-b3ef-428c-8861-06e72d69f223"))
	}
	errs = append(errs, validateSerial(firmware.Serial, path.Child("serial"))...)
	boot := firmware.KernelBoot
	if boot == nil {
		return errs
	}
	path = path.Child("kernelBoot", "container")
	if boot.Container == nil {
		return append(errs, field.Required(path, "kernelBoot needs the image that holds the kernel"))
	}
	if boot.Container.Image == "" {
		errs = append(errs, field.Required(path.Child("image"), "the image that holds the kernel"))
	}
	if boot.Container.KernelPath == "" {
		errs = append(errs, field.Required(path.Child("kernelPath"), "the kernel's path in the image"))
	}
	errs = append(errs, validatePath(boot.Container.KernelPath, path.Child("kernelPath"))...)
	return append(errs, validatePath(boot.Container.InitrdPath, path.Child("initrdPath"))...)
}

func validateDisks(spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	volumesPath, disksPath := path.Child("volumes"), path.Child("domain", "devices", "disks")
	volumes := map[string]bool{}
	images := map[string]bool{}
	for i, volume := range spec.Volumes {
		at := volumesPath.Index(i)
		errs = append(errs, validateName(volume.Name, volumes, at.Child("name"))...)
		volumes[volume.Name] = true
		if volume.VolumeSource == (kubevirtv1.VolumeSource{}) {
			errs = append(errs, field.Required(at, "a volume needs a source, such as hostDisk"))
		}
		if empty := volume.EmptyDisk; empty != nil && empty.Capacity.Sign() <= 0 {
			errs = append(errs, field.Required(at.Child("emptyDisk", "capacity"), "how large the disk is, such as 2Gi"))
		}
		if volume.HostDisk != nil {
			errs = append(errs, validateHostDisk(volume.HostDisk, images, at.Child("hostDisk"))...)
		}
	}
	if kernel := spec.Domain.Firmware; len(spec.Volumes) == 0 && (kernel == nil || kernel.KernelBoot == nil) {
		errs = append(errs, field.Required(disksPath, "the guest has nothing to boot from: give it a disk and a volume, or domain.firmware.kernelBoot"))
	}
	disks := map[string]bool{}
	lastOrder := uint(0)
	for i, disk := range spec.Domain.Devices.Disks {
		at := disksPath.Index(i)
		errs = append(errs, validateName(disk.Name, disks, at.Child("name"))...)
		disks[disk.Name] = true
		if _, ok := volumes[disk.Name]; !ok && disk.Name != "" {
			errs = append(errs, field.Invalid(at.Child("name"), disk.Name, "there is no volume of this name"))
		}
		errs = append(errs, validateSerial(disk.Serial, at.Child("serial"))...)
		if order := disk.BootOrder; order != nil {
			if *order <= lastOrder {
				errs = append(errs, field.Invalid(at.Child("bootOrder"), *order, "must be at least 1 and grow along the list: put the disk to boot from first"))
			}
			lastOrder = *order
		}
	}
	return errs
}

func validateHostDisk(disk *kubevirtv1.HostDisk, images map[string]bool, path *field.Path) field.ErrorList {
	errs := validatePath(disk.Path, path.Child("path"))
	if disk.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), "the image's path on the node"))
	} else if images[disk.Path] {
		errs = append(errs, field.Duplicate(path.Child("path"), disk.Path))
	}
	images[disk.Path] = true
	types := []kubevirtv1.HostDiskType{kubevirtv1.HostDiskExists, kubevirtv1.HostDiskExistsOrCreate}
	switch {
	case disk.Type == "":
		errs = append(errs, field.Required(path.Child("type"), "Disk for an image that exists, DiskOrCreate for one to be made"))
	case !slices.Contains(types, disk.Type):
		errs = append(errs, field.NotSupported(path.Child("type"), disk.Type, types))
	case disk.Type == kubevirtv1.HostDiskExistsOrCreate && disk.Capacity.Sign() <= 0:
		errs = append(errs, field.Required(path.Child("capacity"), "how large the image is to be if it must be created, such as 2Gi"))
	}
	return errs
}

func validateName(name string, taken map[string]bool, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if _, dup := taken[name]; dup {
		return field.ErrorList{field.Duplicate(path, name)}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	return errs
}

func validateSerial(serial string, path *field.Path) field.ErrorList {
	switch {
	case serial == "":
		return nil
	case len(serial) > maxSerial:
		return field.ErrorList{field.TooLong(path, serial, maxSerial)}
	case !serialPattern.MatchString(serial):
		return field.ErrorList{field.Invalid(path, serial, "must be made of letters, digits, and _ . + -")}
	}
	return nil
}

// validatePath wants absolute, clean paths: ".." would leave the image, and a
// comma or a newline could be read as an option of QEMU's.
func validatePath(path string, at *field.Path) field.ErrorList {
	switch {
	case path == "":
		return nil
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return field.ErrorList{field.Invalid(at, path, "must be an absolute path without . and .. and a final slash")}
	case strings.ContainsFunc(path, unicode.IsControl):
		return field.ErrorList{field.Invalid(at, path, "must not contain control characters")}
	}
	return nil
}

func validateGrace(grace *int64, path *field.Path) field.ErrorList {
	if grace != nil && *grace < 0 {
		return field.ErrorList{field.Invalid(path, *grace, "must not be negative")}
	}
	return nil
}
