package machine

func storageRules() []Rule {
	const noSource = "use a hostDisk volume with the path of a raw or qcow2 image"
	return []Rule{
		{Field: "domain.ioThreadsPolicy", Verdict: Warned, Note: "disks share QEMU's threads"},
		{Field: "domain.ioThreads", Verdict: Warned, Note: "disks share QEMU's threads"},
		{Field: "domain.devices.disks.name", Verdict: Honoured},
		{Field: "domain.devices.disks.disk", Verdict: Honoured},
		{Field: "domain.devices.disks.disk.bus", Verdict: Refused, Values: []string{"virtio", "sata", "scsi"}, Note: "virtio where unset; usb isn't built"},
		{Field: "domain.devices.disks.disk.readonly", Verdict: Honoured},
		{Field: "domain.devices.disks.disk.pciAddress", Verdict: Refused, Note: "PCI addresses can't be chosen"},
		{Field: "domain.devices.disks.lun", Verdict: Refused, Note: "LUNs aren't built; use disk"},
		{Field: "domain.devices.disks.cdrom", Verdict: Honoured},
		{Field: "domain.devices.disks.cdrom.bus", Verdict: Refused, Values: []string{"sata", "scsi"}, Note: "sata where unset; virtio has no CD-ROMs"},
		{Field: "domain.devices.disks.cdrom.readonly", Verdict: Refused, Values: []string{"true"}, Note: "a CD-ROM is read-only; use disk"},
		{Field: "domain.devices.disks.cdrom.tray", Verdict: Refused, Values: []string{"closed"}, Note: "the tray is closed at the start"},
		{Field: "domain.devices.disks.bootOrder", Verdict: Honoured, Note: "must follow the order of the list"},
		{Field: "domain.devices.disks.serial", Verdict: Honoured, Note: "the guest sees the first 20 bytes, as virtio has it"},
		{Field: "domain.devices.disks.dedicatedIOThread", Verdict: Warned, Values: []string{"false"}, Note: "disks share QEMU's threads"},
		{Field: "domain.devices.disks.cache", Verdict: Refused, Note: "the cache mode can't be chosen yet; the guest's flushes reach the disk"},
		{Field: "domain.devices.disks.io", Verdict: Warned, Note: "QEMU chooses how it does its I/O"},
		{Field: "domain.devices.disks.tag", Verdict: Refused, Note: "there is no config drive yet to carry it"},
		{Field: "domain.devices.disks.blockSize", Verdict: Refused, Note: "blocks have 512 bytes"},
		{Field: "domain.devices.disks.shareable", Verdict: Refused, Values: []string{"false"}, Note: "an image belongs to one guest at a time"},
		{Field: "domain.devices.disks.errorPolicy", Verdict: Refused, Note: "QEMU's policy holds: stop on a full disk, report other errors to the guest"},
		{Field: "domain.devices.disks.changedBlockTracking", Verdict: Refused, Values: []string{"false"}, Note: "incremental backup isn't built"},
		{Field: "volumes.name", Verdict: Honoured},
		{Field: "volumes.hostDisk.path", Verdict: Honoured, Note: "raw or qcow2, told from the file's head; a qcow2 file with a backing or data file is refused by the node"},
		{Field: "volumes.hostDisk.type", Verdict: Honoured, Note: "Disk, or DiskOrCreate with a capacity"},
		{Field: "volumes.hostDisk.capacity", Verdict: Honoured, Note: "of an image that is created; one that exists has the size it has"},
		{Field: "volumes.hostDisk.shared", Verdict: Warned, Values: []string{"false"}, Note: "guests don't migrate yet"},
		{Field: "volumes.persistentVolumeClaim", Verdict: Refused, Note: "claims don't exist here; " + noSource},
		{Field: "volumes.dataVolume", Verdict: Refused, Note: "DataVolumes don't exist here; " + noSource},
		{Field: "volumes.containerDisk", Verdict: Refused, Note: "container disks aren't built yet; " + noSource + ", or kernelBoot"},
		{Field: "volumes.emptyDisk", Verdict: Honoured, Note: "lives and dies with the instance"},
		{Field: "volumes.ephemeral", Verdict: Refused, Note: "ephemeral disks aren't built yet; " + noSource},
		{Field: "volumes.cloudInitNoCloud", Verdict: Refused, Note: "cloud-init seeds aren't built yet; put them into the image"},
		{Field: "volumes.cloudInitConfigDrive", Verdict: Refused, Note: "cloud-init seeds aren't built yet; put them into the image"},
		{Field: "volumes.sysprep", Verdict: Refused, Note: "sysprep isn't built; put the answers into the image"},
		{Field: "volumes.configMap", Verdict: Refused, Note: "ConfigMaps can't be mounted; put the data into the image"},
		{Field: "volumes.secret", Verdict: Refused, Note: "Secrets can't be mounted; put the data into the image"},
		{Field: "volumes.downwardAPI", Verdict: Refused, Note: "the downward API can't be mounted"},
		{Field: "volumes.serviceAccount", Verdict: Refused, Note: "tokens can't be mounted"},
		{Field: "volumes.downwardMetrics", Verdict: Refused, Note: "downward metrics aren't built"},
		{Field: "volumes.memoryDump", Verdict: Refused, Note: "memory dumps aren't built"},
		{Field: "volumes.containerPath", Verdict: Refused, Note: "shared file systems aren't built; use a disk"},
		{Field: "utilityVolumes", Verdict: Refused, Note: "claims don't exist here"},
	}
}

func networkRules() []Rule {
	const binding = "use bridge: {}, or no binding"
	return []Rule{
		{Field: "hostname", Verdict: Honoured},
		{Field: "subdomain", Verdict: Honoured},
		{Field: "dnsPolicy", Verdict: Refused, Values: []string{"ClusterFirst"}, Note: "guests get the cluster's DNS"},
		{Field: "dnsConfig", Verdict: Refused, Note: "guests get the cluster's DNS and search path"},
		{Field: "networks.name", Verdict: Honoured},
		{Field: "networks.pod", Verdict: Honoured},
		{Field: "networks.pod.vmNetworkCIDR", Verdict: Refused, Note: "the guest sees its cluster address, not one of a range of its own"},
		{Field: "networks.pod.vmIPv6NetworkCIDR", Verdict: Refused, Note: "the guest sees its cluster address, not one of a range of its own"},
		{Field: "networks.multus", Verdict: Refused, Note: "guests are on the pod network only"},
		{Field: "networks.resourceClaim", Verdict: Refused, Note: "guests are on the pod network only"},
		{Field: "domain.devices.interfaces.name", Verdict: Honoured},
		{Field: "domain.devices.interfaces.bridge", Verdict: Honoured, Note: "the guest owns its cluster address; its link is routed, no bridge is made"},
		{Field: "domain.devices.interfaces.masquerade", Verdict: Warned, Note: "the guest sees its cluster address itself instead of 10.0.2.2, and all its ports are open, not only those listed; bridge: {} says the same without this warning"},
		{Field: "domain.devices.interfaces.slirp", Verdict: Refused, Note: binding},
		{Field: "domain.devices.interfaces.sriov", Verdict: Refused, Note: binding},
		{Field: "domain.devices.interfaces.macvtap", Verdict: Refused, Note: binding},
		{Field: "domain.devices.interfaces.passt", Verdict: Refused, Note: binding},
		{Field: "domain.devices.interfaces.passtBinding", Verdict: Refused, Note: binding},
		{Field: "domain.devices.interfaces.binding", Verdict: Refused, Note: "binding plugins don't exist here; " + binding},
		{Field: "domain.devices.interfaces.model", Verdict: Refused, Values: []string{"virtio"}, Note: "the interface is virtio"},
		{Field: "domain.devices.interfaces.ports", Verdict: Honoured, Note: "become the pod's container ports, which named targetPorts of Services refer to"},
		{Field: "domain.devices.interfaces.portRanges", Verdict: Refused, Note: "list the ports one by one in ports"},
		{Field: "domain.devices.interfaces.macAddress", Verdict: Honoured},
		{Field: "domain.devices.interfaces.bootOrder", Verdict: Refused, Note: "guests don't boot from the network"},
		{Field: "domain.devices.interfaces.pciAddress", Verdict: Refused, Note: "PCI addresses can't be chosen"},
		{Field: "domain.devices.interfaces.dhcpOptions", Verdict: Refused, Note: "DHCP options can't be added yet"},
		{Field: "domain.devices.interfaces.tag", Verdict: Refused, Note: "there is no config drive yet to carry it"},
		{Field: "domain.devices.interfaces.acpiIndex", Verdict: Refused, Note: "the guest's name for the interface can't be chosen"},
		{Field: "domain.devices.interfaces.state", Verdict: Refused, Values: []string{"up"}, Note: "the link is up"},
	}
}

func lifecycleRules() []Rule {
	rules := []Rule{
		{Field: "terminationGracePeriodSeconds", Verdict: Honoured, Note: "30 where unset"},
		{Field: "startStrategy", Verdict: Refused, Note: "guests can't start paused yet"},
		{Field: "domain.rebootPolicy", Verdict: Honoured, Note: "Reboot, where unset, keeps the instance; Terminate ends it"},
		{Field: "accessCredentials", Verdict: Refused, Note: "keys and passwords can't be injected; put them into the image"},
	}
	const noLiveness = "a guest that hangs isn't restarted yet; a readinessProbe takes it out of its Services"
	for _, probe := range []string{"readinessProbe", "livenessProbe"} {
		check := Rule{Verdict: Honoured}
		if probe == "livenessProbe" {
			check = Rule{Verdict: Warned, Note: noLiveness}
		}
		rules = append(rules,
			Rule{Field: probe + ".httpGet", Verdict: check.Verdict, Note: check.Note},
			Rule{Field: probe + ".tcpSocket", Verdict: check.Verdict, Note: check.Note},
			Rule{Field: probe + ".exec", Verdict: Refused, Note: "it needs the guest agent, which isn't spoken to yet; use httpGet or tcpSocket"},
			Rule{Field: probe + ".guestAgentPing", Verdict: Refused, Note: "it needs the guest agent, which isn't spoken to yet; use httpGet or tcpSocket"},
			Rule{Field: probe + ".initialDelaySeconds", Verdict: Honoured},
			Rule{Field: probe + ".timeoutSeconds", Verdict: Honoured},
			Rule{Field: probe + ".periodSeconds", Verdict: Honoured},
			Rule{Field: probe + ".successThreshold", Verdict: Honoured},
			Rule{Field: probe + ".failureThreshold", Verdict: Honoured},
		)
	}
	return rules
}
