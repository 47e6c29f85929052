package spec

import (
	"net"
	"net/netip"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	mib = 1 << 20
	// defaultGrace is KubeVirt's, for an instance that names none.
	defaultGrace = 30 * time.Second
	// maxCPUs is what q35 takes without further devices (QEMU 7.2).
	maxCPUs = 255
)

// Identity is what the guest has from its pod, not from its spec.
type Identity struct {
	PodUID    string
	MAC       net.HardwareAddr
	Addresses []netip.Addr
	DNS       []netip.Addr
	Search    []string
	Ports     []corev1.ContainerPort
	// Environment are the variables that describe Services (ENV-01): NAME=value lines.
	Environment string
}

// FromInstance translates. Its error is a field.ErrorList as an aggregate: each
// names a field of the instance and what to write instead.
func FromInstance(vmi *kubevirtv1.VirtualMachineInstance, id Identity) (Spec, error) {
	path := field.NewPath("spec")
	s := Spec{
		ID: string(vmi.UID), PodUID: id.PodUID, Namespace: vmi.Namespace, Name: vmi.Name,
		Hostname: hostname(vmi), MAC: id.MAC.String(), Addresses: id.Addresses, DNS: id.DNS, Search: id.Search,
		FirmwareUUID: firmwareUUID(vmi), Environment: id.Environment,
		Grace:       defaultGrace,
		Readiness:   vmi.Spec.ReadinessProbe,
		Ports:       id.Ports,
		StartPaused: vmi.Spec.StartStrategy != nil && *vmi.Spec.StartStrategy == kubevirtv1.StartStrategyPaused,
	}
	if g := vmi.Spec.TerminationGracePeriodSeconds; g != nil {
		s.Grace = time.Duration(*g) * time.Second
	}
	d := &vmi.Spec.Domain
	if d.RebootPolicy != nil {
		s.RebootTerminates = *d.RebootPolicy == kubevirtv1.RebootPolicyTerminate
	}
	domain := path.Child("domain")
	var errs field.ErrorList
	s.MemoryMiB, errs = memory(d, domain, errs)
	s.CPU, errs = cpu(d, domain, errs)
	if d.Machine != nil && !oneOf(d.Machine.Type, "", "q35", "pc-q35") {
		errs = append(errs, field.NotSupported(domain.Child("machine", "type"), d.Machine.Type, []string{"q35"}))
	}
	s.Kernel, s.FirmwareSerial, errs = firmware(d.Firmware, domain.Child("firmware"), errs)
	s.Disks, errs = disks(&vmi.Spec, path, errs)
	if s.Kernel == nil && len(s.Disks) == 0 {
		errs = append(errs, field.Required(domain.Child("devices", "disks"), "the guest has nothing to boot from: give it a disk or firmware.kernelBoot"))
	}
	errs = interfaces(d.Devices.Interfaces, domain.Child("devices", "interfaces"), errs)
	return s, errs.ToAggregate()
}

func oneOf(s string, list ...string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}

func hostname(vmi *kubevirtv1.VirtualMachineInstance) string {
	if vmi.Spec.Hostname != "" {
		return vmi.Spec.Hostname
	}
	return vmi.Name
}

// firmwareUUID is the instance's own or one made of the VirtualMachine's UID, so
// that every start of a machine shows the same (RFC 9562, version 5).
func firmwareUUID(vmi *kubevirtv1.VirtualMachineInstance) string {
	if f := vmi.Spec.Domain.Firmware; f != nil && f.UUID != "" {
		return string(f.UUID)
	}
	of := string(vmi.UID)
	if owner := metav1.GetControllerOf(vmi); owner != nil {
		of = string(owner.UID)
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("portico.dev/firmware/"+of)).String()
}

func memory(d *kubevirtv1.DomainSpec, path *field.Path, errs field.ErrorList) (int64, field.ErrorList) {
	where := path.Child("memory", "guest")
	q := d.Resources.Requests[corev1.ResourceMemory]
	switch {
	case d.Memory != nil && d.Memory.Guest != nil:
		q = *d.Memory.Guest
	case !q.IsZero():
		where = path.Child("resources", "requests", "memory")
	default:
		q = d.Resources.Limits[corev1.ResourceMemory]
		if !q.IsZero() {
			where = path.Child("resources", "limits", "memory")
		}
	}
	if q.IsZero() {
		return 0, append(errs, field.Required(where, "say how much memory the guest sees, such as 512Mi"))
	}
	if q.Value() < mib {
		return 0, append(errs, field.Invalid(where, q.String(), "must be at least 1Mi"))
	}
	return (q.Value() + mib - 1) / mib, errs
}

// cpu takes the topology, or without one as many sockets as resources ask for.
func cpu(d *kubevirtv1.DomainSpec, path *field.Path, errs field.ErrorList) (CPU, field.ErrorList) {
	c := CPU{Sockets: 1, Cores: 1, Threads: 1}
	where := path.Child("cpu")
	if d.CPU != nil {
		c.Model = d.CPU.Model
		c.Sockets, c.Cores, c.Threads = max(1, d.CPU.Sockets), max(1, d.CPU.Cores), max(1, d.CPU.Threads)
		if len(d.CPU.Features) > 0 {
			errs = append(errs, field.Forbidden(where.Child("features"), "can't be chosen yet; choose a model that has them"))
		}
	}
	if d.CPU == nil || d.CPU.Sockets+d.CPU.Cores+d.CPU.Threads == 0 {
		for _, list := range []corev1.ResourceList{d.Resources.Requests, d.Resources.Limits} {
			if q, ok := list[corev1.ResourceCPU]; ok && q.Value() > 0 {
				where = path.Child("resources")
				c.Sockets = uint32(min(q.Value(), maxCPUs+1)) // Value rounds up
				break
			}
		}
	}
	if n := uint64(c.Sockets) * uint64(c.Cores) * uint64(c.Threads); n > maxCPUs {
		errs = append(errs, field.Invalid(where, n, "must be at most 255 processors"))
	}
	return c, errs
}

func firmware(f *kubevirtv1.Firmware, path *field.Path, errs field.ErrorList) (*Kernel, string, field.ErrorList) {
	if f == nil {
		return nil, "", errs
	}
	if f.Bootloader != nil && f.Bootloader.EFI != nil {
		errs = append(errs, field.Forbidden(path.Child("bootloader", "efi"), "isn't supported yet; leave it out to boot by BIOS"))
	}
	if f.ACPI != nil {
		errs = append(errs, field.Forbidden(path.Child("acpi"), "isn't supported yet"))
	}
	if f.KernelBoot == nil {
		return nil, f.Serial, errs
	}
	c, where := f.KernelBoot.Container, path.Child("kernelBoot", "container")
	if c == nil {
		return nil, f.Serial, append(errs, field.Required(where, "name the image and the path of the kernel in it"))
	}
	if c.Image == "" {
		errs = append(errs, field.Required(where.Child("image"), "name an image that `portico image import` has put into the store"))
	}
	if c.KernelPath == "" {
		errs = append(errs, field.Required(where.Child("kernelPath"), "name the kernel's file in the image, such as /boot/vmlinuz"))
	}
	return &Kernel{Image: c.Image, Path: c.KernelPath, Initrd: c.InitrdPath, Args: f.KernelBoot.KernelArgs}, f.Serial, errs
}

// interfaces allows the one link that guests have; how it is bound concerns the
// link, not QEMU.
func interfaces(list []kubevirtv1.Interface, path *field.Path, errs field.ErrorList) field.ErrorList {
	for i, in := range list {
		if i > 0 {
			errs = append(errs, field.Forbidden(path.Index(i), "a guest has one interface; secondary networks aren't supported yet"))
		}
		if !oneOf(in.Model, "", "virtio") {
			errs = append(errs, field.NotSupported(path.Index(i).Child("model"), in.Model, []string{"virtio"}))
		}
		if in.SRIOV != nil {
			errs = append(errs, field.Forbidden(path.Index(i).Child("sriov"), "isn't supported; use masquerade or bridge"))
		}
	}
	return errs
}
