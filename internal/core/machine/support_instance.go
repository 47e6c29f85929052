package machine

import "slices"

// InstanceRules says what becomes of the fields of VirtualMachineInstanceSpec.
func InstanceRules() []Rule {
	return slices.Concat(placementRules(), computeRules(), firmwareRules(), deviceRules(), storageRules(), networkRules(), lifecycleRules())
}

func placementRules() []Rule {
	return []Rule{
		{Field: "nodeSelector", Verdict: Honoured},
		{Field: "tolerations", Verdict: Honoured},
		{Field: "schedulerName", Verdict: Honoured, Note: "the pod waits for a scheduler of that name; ours takes the pods that name none or default-scheduler"},
		{Field: "architecture", Verdict: Honoured, Note: "the pod fits only nodes labelled kubernetes.io/arch with this value"},
		{Field: "serviceAccountName", Verdict: Honoured, Note: "on the pod only; the guest gets no token"},
		{Field: "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", Verdict: Honoured},
		{Field: "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution", Verdict: Warned, Note: "the scheduler has no preferences; use nodeSelector or required node affinity"},
		{Field: "affinity.podAffinity", Verdict: Warned, Note: "the scheduler doesn't look at other pods' labels; use nodeSelector"},
		{Field: "affinity.podAntiAffinity", Verdict: Warned, Note: "the scheduler doesn't look at other pods' labels; use nodeSelector"},
		{Field: "topologySpreadConstraints", Verdict: Warned, Note: "the scheduler doesn't spread pods; use nodeSelector"},
		{Field: "priorityClassName", Verdict: Warned, Note: "no pod is preempted for another"},
		{Field: "evictionStrategy", Verdict: Warned, Values: []string{"None"}, Note: "live migration isn't built yet; an evicted guest is shut down and follows its run strategy"},
		{Field: "resourceClaims", Verdict: Refused, Note: "dynamic resource allocation isn't built"},
	}
}

func computeRules() []Rule {
	return []Rule{
		{Field: "domain.resources.requests.memory", Verdict: Honoured, Note: "the guest's memory where memory.guest is unset, and what the scheduler counts"},
		{Field: "domain.resources.requests.cpu", Verdict: Honoured, Note: "what the scheduler counts, and the number of vCPUs where domain.cpu has none"},
		{Field: "domain.resources.requests.*", Verdict: Refused, Note: "only memory and cpu can be requested"},
		{Field: "domain.resources.limits.memory", Verdict: Warned, Note: "no memory limit is put on QEMU; the guest can't use more than its memory"},
		{Field: "domain.resources.limits.cpu", Verdict: Warned, Note: "no CPU limit is put on QEMU; it is only the number of vCPUs where nothing else says it"},
		{Field: "domain.resources.limits.*", Verdict: Refused, Note: "only memory and cpu can be limited"},
		{Field: "domain.resources.overcommitGuestOverhead", Verdict: Warned, Note: "QEMU's own memory is always counted"},
		{Field: "domain.cpu.cores", Verdict: Honoured},
		{Field: "domain.cpu.sockets", Verdict: Honoured},
		{Field: "domain.cpu.threads", Verdict: Honoured},
		{Field: "domain.cpu.maxSockets", Verdict: Warned, Note: "no CPU is plugged into a running guest; change sockets and restart"},
		{Field: "domain.cpu.model", Verdict: Honoured, Note: "one of QEMU's; unset, host-model and host-passthrough: all that the node's CPU, or QEMU's emulation, offers"},
		{Field: "domain.cpu.features", Verdict: Refused, Note: "CPU features can't be chosen yet; leave them out"},
		{Field: "domain.cpu.dedicatedCpuPlacement", Verdict: Warned, Note: "vCPUs aren't pinned"},
		{Field: "domain.cpu.numa", Verdict: Refused, Note: "the guest has one NUMA node"},
		{Field: "domain.cpu.isolateEmulatorThread", Verdict: Warned, Note: "vCPUs aren't pinned"},
		{Field: "domain.cpu.realtime", Verdict: Refused, Note: "real-time guarantees can't be kept"},
		{Field: "domain.memory.guest", Verdict: Honoured},
		{Field: "domain.memory.hugepages", Verdict: Warned, Note: "the guest's memory is ordinary memory"},
		{Field: "domain.memory.maxGuest", Verdict: Warned, Note: "no memory is plugged into a running guest; change memory.guest and restart"},
		{Field: "domain.memory.reservedOverhead", Verdict: Warned, Note: "a fixed overhead is counted"},
	}
}

func firmwareRules() []Rule {
	return []Rule{
		{Field: "domain.machine.type", Verdict: Refused, Values: []string{"q35"}, Note: "the machine type is q35"},
		{Field: "domain.firmware.uuid", Verdict: Honoured, Note: "derived from the VirtualMachine's UID where unset, so it is the same at each start"},
		{Field: "domain.firmware.serial", Verdict: Honoured},
		{Field: "domain.firmware.bootloader.bios", Verdict: Honoured, Note: "SeaBIOS is the firmware"},
		{Field: "domain.firmware.bootloader.bios.useSerial", Verdict: Warned, Note: "the BIOS doesn't write to the serial console"},
		{Field: "domain.firmware.bootloader.efi", Verdict: Refused, Note: "UEFI isn't built yet; use bootloader.bios, or kernelBoot"},
		{Field: "domain.firmware.kernelBoot.kernelArgs", Verdict: Honoured},
		{Field: "domain.firmware.kernelBoot.container.image", Verdict: Honoured, Note: "an image of the node's local store: portico image import FILE"},
		{Field: "domain.firmware.kernelBoot.container.kernelPath", Verdict: Honoured},
		{Field: "domain.firmware.kernelBoot.container.initrdPath", Verdict: Honoured},
		{Field: "domain.firmware.kernelBoot.container.imagePullSecret", Verdict: Warned, Note: "images come from the node's local store; nothing is pulled"},
		{Field: "domain.firmware.kernelBoot.container.imagePullPolicy", Verdict: Warned, Values: []string{"IfNotPresent", "Never"}, Note: "images come from the node's local store; nothing is pulled"},
		{Field: "domain.firmware.acpi", Verdict: Refused, Note: "ACPI tables can't be added"},
		{Field: "domain.clock.utc", Verdict: Honoured},
		{Field: "domain.clock.utc.offsetSeconds", Verdict: Refused, Note: "the guest's hardware clock is UTC"},
		{Field: "domain.clock.timezone", Verdict: Refused, Values: []string{"UTC"}, Note: "the guest's hardware clock is UTC"},
		{Field: "domain.clock.timer", Verdict: Warned, Note: "the guest gets q35's usual timers"},
		{Field: "domain.features.acpi.enabled", Verdict: Refused, Values: []string{"true"}, Note: "ACPI is always on: a graceful stop needs it"},
		{Field: "domain.features.apic.enabled", Verdict: Refused, Values: []string{"true"}, Note: "the APIC is always on"},
		{Field: "domain.features.apic.endOfInterrupt", Verdict: Warned, Note: "QEMU chooses"},
		{Field: "domain.features.smm.enabled", Verdict: Refused, Values: []string{"false"}, Note: "system management mode is for UEFI, which isn't built yet"},
		{Field: "domain.features.kvm", Verdict: Refused, Note: "the hypervisor isn't hidden from the guest"},
		{Field: "domain.features.pvspinlock.enabled", Verdict: Warned, Note: "KVM chooses"},
		{Field: "domain.features.hyperv", Verdict: Refused, Note: "Hyper-V enlightenments aren't built yet; guests run without them"},
		{Field: "domain.features.hypervPassthrough", Verdict: Refused, Note: "Hyper-V enlightenments aren't built yet; guests run without them"},
		{Field: "domain.chassis", Verdict: Refused, Note: "the guest would see other SMBIOS data than you ask for"},
		{Field: "domain.launchSecurity", Verdict: Refused, Note: "the guest's memory isn't encrypted"},
	}
}

func deviceRules() []Rule {
	return []Rule{
		{Field: "domain.devices.useVirtioTransitional", Verdict: Refused, Values: []string{"false"}, Note: "devices are modern virtio"},
		{Field: "domain.devices.disableHotplug", Verdict: Honoured, Note: "nothing is plugged into a running guest anyway"},
		{Field: "domain.devices.watchdog", Verdict: Refused, Note: "watchdogs aren't built"},
		{Field: "domain.devices.inputs", Verdict: Warned, Note: "there is no screen yet, so there is no pointer"},
		{Field: "domain.devices.autoattachPodInterface", Verdict: Refused, Values: []string{"true"}, Note: "each guest has one interface on the pod network"},
		{Field: "domain.devices.autoattachGraphicsDevice", Verdict: Warned, Values: []string{"false"}, Note: "there is no screen yet; use the serial console: portico vm console NAME"},
		{Field: "domain.devices.autoattachSerialConsole", Verdict: Warned, Values: []string{"true"}, Note: "each guest has a serial console"},
		{Field: "domain.devices.logSerialConsole", Verdict: Warned, Note: "the node decides whether the serial console is logged"},
		{Field: "domain.devices.autoattachMemBalloon", Verdict: Warned, Values: []string{"false"}, Note: "there is no memory balloon"},
		{Field: "domain.devices.autoattachInputDevice", Verdict: Warned, Values: []string{"false"}, Note: "there is no screen yet, so there is no pointer"},
		{Field: "domain.devices.autoattachVSOCK", Verdict: Refused, Values: []string{"false"}, Note: "vsock isn't built"},
		{Field: "domain.devices.rng", Verdict: Honoured, Note: "each guest has one, asked for or not"},
		{Field: "domain.devices.blockMultiQueue", Verdict: Warned, Values: []string{"false"}, Note: "QEMU chooses the number of queues"},
		{Field: "domain.devices.networkInterfaceMultiqueue", Verdict: Warned, Values: []string{"false"}, Note: "the interface has one queue"},
		{Field: "domain.devices.gpus", Verdict: Refused, Note: "host devices can't be passed through"},
		{Field: "domain.devices.hostDevices", Verdict: Refused, Note: "host devices can't be passed through"},
		{Field: "domain.devices.downwardMetrics", Verdict: Refused, Note: "downward metrics aren't built"},
		{Field: "domain.devices.panicDevices", Verdict: Refused, Note: "panic devices aren't built"},
		{Field: "domain.devices.filesystems", Verdict: Refused, Note: "shared file systems aren't built; use a disk"},
		{Field: "domain.devices.clientPassthrough", Verdict: Refused, Note: "USB redirection isn't built"},
		{Field: "domain.devices.sound", Verdict: Refused, Note: "sound isn't built"},
		{Field: "domain.devices.tpm", Verdict: Refused, Note: "a TPM isn't built"},
		{Field: "domain.devices.video", Verdict: Refused, Note: "there is no screen yet"},
	}
}
