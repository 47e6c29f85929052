package machine

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// What a manifest's template.spec may say beside the memory: which fields are
// refused (type and path), and which are warned of. "": accepted without a word.
// VM-01, and the rule that no field is dropped in silence.
func TestTemplateSpec(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		errs       []string // "Forbidden domain.clock.timezone"
		warns      []string // the beginnings of warnings, without spec.template.spec.
	}{
		{"nothing", ``, []string{"Required domain.devices.disks"}, nil},
		{"kernel", kernel, nil, nil},
		{"disk", disk, nil, nil},
		{"kernel without image", `domain: {firmware: {kernelBoot: {container: {kernelPath: /k}}}}`, []string{"Required domain.firmware.kernelBoot.container.image"}, nil},
		{"kernel arguments alone", `domain: {firmware: {kernelBoot: {kernelArgs: quiet}}}`, []string{"Required domain.firmware.kernelBoot.container"}, nil},
		{"kernel path leaves the image", `domain: {firmware: {kernelBoot: {container: {image: i, kernelPath: /../etc/shadow}}}}`, []string{"Invalid domain.firmware.kernelBoot.container.kernelPath"}, nil},
		{"initrd path is relative", `domain: {firmware: {kernelBoot: {container: {image: i, kernelPath: /k, initrdPath: boot/initrd}}}}`, []string{"Invalid domain.firmware.kernelBoot.container.initrdPath"}, nil},
		{"pull policy", kernel + "\n" + `{domain: {firmware: {kernelBoot: {container: {imagePullPolicy: Always}}}}}`, nil, []string{"domain.firmware.kernelBoot.container.imagePullPolicy: no effect"}},

		{"cpu", kernel + "\n" + `{domain: {cpu: {sockets: 2, cores: 4, threads: 2}}}`, nil, nil},
		{"too many cpus", kernel + "\n" + `{domain: {cpu: {sockets: 16, cores: 16}}}`, []string{"Invalid domain.cpu"}, nil},
		{"cpus that wrap around", kernel + "\n" + `{domain: {cpu: {sockets: 4294967295, cores: 4294967295, threads: 4294967295}}}`, []string{"Invalid domain.cpu"}, nil},
		{"cpu model", kernel + "\n" + `{domain: {cpu: {model: Haswell}}}`, nil, nil},
		{"cpus by request", kernel + "\n" + `{domain: {resources: {requests: {cpu: 300}}}}`, []string{"Invalid domain.cpu"}, nil},
		{"cpu features", kernel + "\n" + `{domain: {cpu: {features: [{name: vmx}]}}}`, []string{"Forbidden domain.cpu.features"}, nil},
		{"dedicated cpus", kernel + "\n" + `{domain: {cpu: {dedicatedCpuPlacement: true}}}`, nil, []string{"domain.cpu.dedicatedCpuPlacement: no effect"}},
		{"memory by request", kernel + "\n" + `{domain: {memory: null, resources: {requests: {memory: 64Mi, cpu: 100m}}}}`, nil, nil},
		{"no memory", kernel + "\n" + `{domain: {memory: null}}`, []string{"Required domain.memory.guest"}, nil},
		{"memory without a unit", kernel + "\n" + `{domain: {memory: {guest: 512}}}`, []string{"Invalid domain.memory.guest"}, nil},
		{"huge pages", kernel + "\n" + `{domain: {memory: {guest: 64Mi, hugepages: {pageSize: 2Mi}}}}`, nil, []string{"domain.memory.hugepages: no effect"}},
		{"device request", kernel + "\n" + `{domain: {resources: {requests: {"example.com/gpu": 1}}}}`, []string{"Forbidden domain.resources.requests[example.com/gpu]"}, nil},
		{"limits", kernel + "\n" + `{domain: {resources: {limits: {memory: 1Gi, cpu: 1}}}}`, nil, []string{"domain.resources.limits[cpu]: no effect", "domain.resources.limits[memory]: no effect"}},
		{"machine type", kernel + "\n" + `{domain: {machine: {type: pc}}}`, []string{"Forbidden domain.machine.type"}, nil},
		{"machine type q35", kernel + "\n" + `{domain: {machine: {type: q35}}}`, nil, nil},
		{"uefi", kernel + "\n" + `{domain: {firmware: {bootloader: {efi: {}}}}}`, []string{"Forbidden domain.firmware.bootloader.efi"}, nil},
		{"bios", kernel + "\n" + `{domain: {firmware: {bootloader: {bios: {}}}}}`, nil, nil},
		{"bad uuid", kernel + "\n" + `{domain: {firmware: {uuid: "1234"}}}`, []string{"Invalid domain.firmware.uuid"}, nil},
		{"acpi off", kernel + "\n" + `{domain: {features: {acpi: {enabled: false}}}}`, []string{"Forbidden domain.features.acpi.enabled"}, nil},
		{"features as they are", kernel + "\n" + `{domain: {features: {acpi: {enabled: true}, apic: {}, smm: {enabled: false}}}}`, nil, nil},
		{"clock", kernel + "\n" + `{domain: {clock: {utc: {}, timer: {hpet: {present: false}}}}}`, nil, []string{"domain.clock.timer: no effect"}},
		{"clock of Berlin", kernel + "\n" + `{domain: {clock: {timezone: Europe/Berlin}}}`, []string{"Forbidden domain.clock.timezone"}, nil},
		{"reboot policy", kernel + "\n" + `{domain: {rebootPolicy: Halt}}`, []string{"NotSupported domain.rebootPolicy"}, nil},

		{"usb disk", disk + "\n" + `{domain: {devices: {disks: [{name: root, disk: {bus: usb}}]}}}`, []string{"Forbidden domain.devices.disks[0].disk.bus"}, nil},
		{"cdrom", disk + "\n" + `{domain: {devices: {disks: [{name: root, cdrom: {bus: sata}}]}}}`, nil, nil},
		{"cdrom to write on", disk + "\n" + `{domain: {devices: {disks: [{name: root, cdrom: {bus: virtio, readonly: false}}]}}}`, []string{"Forbidden domain.devices.disks[0].cdrom.bus", "Forbidden domain.devices.disks[0].cdrom.readonly"}, nil},
		{"lun", disk + "\n" + `{domain: {devices: {disks: [{name: root, lun: {}}]}}}`, []string{"Forbidden domain.devices.disks[0].lun"}, nil},
		{"shared disk", disk + "\n" + `{domain: {devices: {disks: [{name: root, disk: {}, shareable: true}]}}}`, []string{"Forbidden domain.devices.disks[0].shareable"}, nil},
		{"disk without volume", kernel + "\n" + `{domain: {devices: {disks: [{name: data, disk: {}}]}}}`, []string{"Invalid domain.devices.disks[0].name"}, nil},
		{"boot order", disk + "\n" + `{domain: {devices: {disks: [{name: root, bootOrder: 0}]}}}`, []string{"Invalid domain.devices.disks[0].bootOrder"}, nil},
		{"volume without disk", `volumes: [{name: root, hostDisk: {path: /a.img, type: Disk}}]`, nil, nil},
		{"volume without source", kernel + "\n" + `{volumes: [{name: root}]}`, []string{"Required volumes[0]"}, nil},
		{"volume to create", `volumes: [{name: root, hostDisk: {path: /a.img, type: DiskOrCreate, capacity: 1Gi}}, {name: scratch, emptyDisk: {capacity: 1Gi}}]`, nil, nil},
		{"volume to create without size", `volumes: [{name: root, hostDisk: {path: /a.img, type: DiskOrCreate}}, {name: scratch, emptyDisk: {}}]`, []string{"Required volumes[0].hostDisk.capacity", "Required volumes[1].emptyDisk.capacity"}, nil},
		{"volume of no type", `volumes: [{name: root, hostDisk: {path: /a.img}}, {name: b, hostDisk: {path: /b.img, type: Socket}}]`, []string{"Required volumes[0].hostDisk.type", "NotSupported volumes[1].hostDisk.type"}, nil},
		{"relative image", `volumes: [{name: root, hostDisk: {path: a.img, type: Disk}}]`, []string{"Invalid volumes[0].hostDisk.path"}, nil},
		{"one image twice", `volumes: [{name: a, hostDisk: {path: /a.img, type: Disk}}, {name: b, hostDisk: {path: /a.img, type: Disk}}]`, []string{"Duplicate volumes[1].hostDisk.path"}, nil},
		{"container disk and cloud-init", `volumes: [{name: a, containerDisk: {image: x}}, {name: b, cloudInitNoCloud: {userData: x}}]`, []string{"Forbidden volumes[0].containerDisk", "Forbidden volumes[1].cloudInitNoCloud"}, nil},

		{"ports", kernel + "\n" + nic(`{ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}`), nil, nil},
		{
			"wrong ports", kernel + "\n" + nic(`{ports: [{name: http, port: 0}, {name: http, port: 70000, protocol: ICMP}, {port: 1}, {port: 1}]}`),
			[]string{
				"Invalid domain.devices.interfaces[0].ports[0].port", "Invalid domain.devices.interfaces[0].ports[1].port", "NotSupported domain.devices.interfaces[0].ports[1].protocol",
				"Duplicate domain.devices.interfaces[0].ports[1].name", "Duplicate domain.devices.interfaces[0].ports[3]",
			},
			nil,
		},
		{"masquerade", kernel + "\n" + nic(`{masquerade: {}}`), nil, []string{"domain.devices.interfaces[0].masquerade: no effect: the guest sees its cluster address itself"}},
		{"sriov", kernel + "\n" + nic(`{sriov: {}}`), []string{"Forbidden domain.devices.interfaces[0].sriov"}, nil},
		{"e1000", kernel + "\n" + nic(`{model: e1000}`), []string{"Forbidden domain.devices.interfaces[0].model"}, nil},
		{"multicast MAC", kernel + "\n" + nic(`{macAddress: "03:00:00:00:00:01"}`), []string{"Invalid domain.devices.interfaces[0].macAddress"}, nil},
		{"interface without network", kernel + "\n" + `{domain: {devices: {interfaces: [{name: default}]}}}`, []string{"Invalid domain.devices.interfaces[0].name"}, nil},
		{"multus", kernel + "\n" + `{networks: [{name: default, multus: {networkName: x}}], domain: {devices: {interfaces: [{name: default}]}}}`, []string{"Forbidden networks[0].multus"}, nil},
		{"no network at all", kernel + "\n" + `{domain: {devices: {autoattachPodInterface: false}}}`, []string{"Forbidden domain.devices.autoattachPodInterface"}, nil},
		{"host name", kernel + "\n" + `{hostname: Web.example, subdomain: a.b}`, []string{"Invalid hostname", "Invalid subdomain"}, nil},
		{"dns", kernel + "\n" + `{dnsPolicy: None, dnsConfig: {nameservers: [9.9.9.9]}}`, []string{"Forbidden dnsPolicy", "Forbidden dnsConfig"}, nil},

		{"probes", kernel + "\n" + `{readinessProbe: {httpGet: {port: 80}}, livenessProbe: {tcpSocket: {port: 22}, initialDelaySeconds: 5}}`, nil, []string{"livenessProbe.tcpSocket"}},
		{"probe of a named port", kernel + "\n" + nic(`{ports: [{name: http, port: 80}]}`) + "\n" + `{readinessProbe: {httpGet: {port: http}}}`, nil, nil},
		{"probe of an unknown port", kernel + "\n" + `{readinessProbe: {httpGet: {port: http}}}`, []string{"Invalid readinessProbe.httpGet.port"}, nil},
		{"empty probe", kernel + "\n" + `{readinessProbe: {periodSeconds: 1}}`, []string{"Required readinessProbe"}, nil},
		{"two probes in one", kernel + "\n" + `{readinessProbe: {httpGet: {port: 80}, tcpSocket: {port: 80}}}`, []string{"Forbidden readinessProbe"}, nil},
		{"exec probe", kernel + "\n" + `{readinessProbe: {exec: {command: [x]}}, livenessProbe: {guestAgentPing: {}}}`, []string{"Forbidden readinessProbe.exec", "Forbidden livenessProbe.guestAgentPing"}, nil},
		{
			"negative numbers", kernel + "\n" + `{terminationGracePeriodSeconds: -1, livenessProbe: {tcpSocket: {port: 0}, periodSeconds: -1, successThreshold: 2}}`,
			[]string{"Invalid livenessProbe.tcpSocket.port", "Invalid livenessProbe.periodSeconds", "Invalid livenessProbe.successThreshold", "Invalid terminationGracePeriodSeconds"},
			nil,
		},

		{
			"placement", kernel + "\n" + `{nodeSelector: {a: b}, tolerations: [{operator: Exists}], evictionStrategy: LiveMigrate, priorityClassName: high}`, nil,
			[]string{"evictionStrategy: no effect", "priorityClassName: no effect"},
		},
		{"bad node selector", kernel + "\n" + `{nodeSelector: {"a b": c}}`, []string{"Invalid nodeSelector"}, nil},
		{"start paused", kernel + "\n" + `{startStrategy: Paused}`, []string{"Forbidden startStrategy"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := testVM(func(vm *kubevirtv1.VirtualMachine) {
				// Lines are documents that are laid over each other.
				merged := map[string]any{}
				for _, doc := range strings.Split("{domain: {memory: {guest: 128Mi}}}\n"+c.spec, "\n") {
					var layer map[string]any
					if err := yaml.Unmarshal([]byte(doc), &layer); err != nil {
						t.Fatal(err)
					}
					overlay(merged, layer)
				}
				vm.Spec.Template.Spec = kubevirtv1.VirtualMachineInstanceSpec{}
				if err := yaml.UnmarshalStrict([]byte(mustYAML(t, merged)), &vm.Spec.Template.Spec); err != nil {
					t.Fatal(err)
				}
			})
			checkErrors(t, Validate(vm), "spec.template.spec.", c.errs)
			warnings := Warnings(vm)
			for i := range warnings {
				warnings[i] = strings.TrimPrefix(warnings[i], "spec.template.spec.")
			}
			if len(c.errs) > 0 && c.warns == nil {
				return // what else is warned of doesn't matter then
			}
			slices.Sort(warnings)
			if len(warnings) != len(c.warns) {
				t.Fatalf("warnings %q, want %q", warnings, c.warns)
			}
			for i := range c.warns {
				if !strings.HasPrefix(warnings[i], c.warns[i]) {
					t.Errorf("warning %q, want %q...", warnings[i], c.warns[i])
				}
			}
		})
	}
}

const (
	kernel = `{domain: {firmware: {kernelBoot: {container: {image: i, kernelPath: /k}}}}}`
	disk   = `{domain: {devices: {disks: [{name: root, disk: {bus: virtio, readonly: true}, serial: AB-1}]}}, volumes: [{name: root, hostDisk: {path: /a.img, type: Disk}}]}`
)

func overlay(base, layer map[string]any) {
	for key, value := range layer {
		sub, ok := value.(map[string]any)
		into, has := base[key].(map[string]any)
		if ok && has {
			overlay(into, sub)
			continue
		}
		base[key] = value
	}
}

func nic(fields string) string {
	return `{networks: [{name: default, pod: {}}], domain: {devices: {interfaces: [{name: default, ` + strings.TrimPrefix(fields, "{") + `]}}}`
}

func checkErrors(t *testing.T, errs field.ErrorList, prefix string, want []string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		kind := strings.TrimPrefix(string(e.Type), "FieldValue")
		got = append(got, kind+" "+strings.TrimPrefix(e.Field, prefix))
		if e.Detail == "" && e.Type != field.ErrorTypeDuplicate && e.Type != field.ErrorTypeNotSupported {
			t.Errorf("%v says nothing about the remedy", e)
		}
	}
	slices.Sort(got)
	want = slices.Clone(want)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("errors\n got %q\nwant %q\n%v", got, want, errs.ToAggregate())
	}
}

// VM-01: exactly one of running and runStrategy; WaitAsReceiver is refused.
func TestMachineSpec(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*kubevirtv1.VirtualMachine)
		errs   []string
	}{
		{"running", running(false), nil},
		{"both", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Running = ptr(true) }, []string{"Forbidden runStrategy"}},
		{"neither", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.RunStrategy = nil }, []string{"Required runStrategy"}},
		{"Manual", strategy(kubevirtv1.RunStrategyManual), nil},
		{"WaitAsReceiver", strategy(kubevirtv1.RunStrategyWaitAsReceiver), []string{"Forbidden runStrategy"}},
		{"unknown", strategy("Sometimes"), []string{"NotSupported runStrategy"}},
		{"empty", strategy(""), []string{"NotSupported runStrategy"}},
		{"no template", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template = nil }, []string{"Required template"}},
		{"bad label", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.ObjectMeta.Labels["a"] = "b c" }, []string{"Invalid template.metadata.labels"}},
		{"instance type", func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Instancetype = &kubevirtv1.InstancetypeMatcher{Name: "u1.small"}
		}, []string{"Forbidden instancetype"}},
		{"finalizer in the template", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.ObjectMeta.Finalizers = []string{"a/b"} }, []string{"Forbidden template.metadata.finalizers"}},
		{"bad name", func(vm *kubevirtv1.VirtualMachine) { vm.Name = "Web_1" }, []string{"Invalid metadata.name"}},
		{"bad address", func(vm *kubevirtv1.VirtualMachine) { vm.Annotations[AddressesAnnotation] = "10.1.1.1,10.1.1.2" }, []string{"Invalid metadata.annotations[portico.dev/addresses]"}},
		{"bad links", func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.ObjectMeta.Annotations = map[string]string{ServiceLinksAnnotation: "no"}
		}, []string{"NotSupported template.metadata.annotations[portico.dev/enable-service-links]"}},
	} {
		t.Run(c.name, func(t *testing.T) { checkErrors(t, Validate(testVM(c.change)), "spec.", c.errs) })
	}
}

// A label that the pod carries itself doesn't come from the template.
func TestReservedLabelIsWarned(t *testing.T) {
	vm := testVM(func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.ObjectMeta.Labels["kubevirt.io"] = "x" })
	if w := Warnings(vm); len(w) == 0 || !strings.HasPrefix(w[0], "spec.template.metadata.labels[kubevirt.io]") {
		t.Errorf("warnings %q", w)
	}
}

func TestUpdates(t *testing.T) {
	old := testVM()
	old.ResourceVersion = "1"
	for _, c := range []struct {
		name   string
		change func(*kubevirtv1.VirtualMachine)
		errs   []string
	}{
		{"template", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Hostname = "other" }, nil},
		{"claim left out", func(vm *kubevirtv1.VirtualMachine) { vm.Annotations = nil }, nil},
		{"claim changed", func(vm *kubevirtv1.VirtualMachine) { vm.Annotations[AddressesAnnotation] = "10.245.0.9" }, []string{"Invalid metadata.annotations[portico.dev/addresses]"}},
		{"MAC changed", func(vm *kubevirtv1.VirtualMachine) { vm.Annotations[MACAnnotation] = "02:00:00:00:00:09" }, []string{"Invalid metadata.annotations[portico.dev/mac-address]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			updated := old.DeepCopy()
			c.change(updated)
			KeepClaims(updated, old)
			checkErrors(t, ValidateUpdate(updated, old), "spec.", c.errs)
		})
	}

	vmi := instanceOf(testVM(), "vmi-uid", kubevirtv1.Running)
	vmi.ResourceVersion = "1"
	changed := vmi.DeepCopy()
	changed.Spec.TerminationGracePeriodSeconds = ptr(int64(0))
	changed.Labels["live"] = "yes"
	checkErrors(t, ValidateInstanceUpdate(changed, vmi), "", nil)
	changed.Spec.Hostname = "other"
	checkErrors(t, ValidateInstanceUpdate(changed, vmi), "", []string{"Forbidden spec"})
}

// An instance that InstanceFor makes passes the instance's own validation.
func TestInstanceOfAValidMachineIsValid(t *testing.T) {
	checkErrors(t, ValidateInstance(InstanceFor(testVM())), "", nil)
}

func TestDefaultsAreIdempotent(t *testing.T) {
	vmi := InstanceFor(testVM(func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.Template.Spec.ReadinessProbe = &kubevirtv1.Probe{}
		vm.Spec.Template.Spec.Volumes = []kubevirtv1.Volume{{Name: "root"}}
	}))
	again := vmi.DeepCopy()
	SetInstanceDefaults(again)
	if a, b := mustYAML(t, vmi), mustYAML(t, again); a != b {
		t.Errorf("defaults changed what has them:\n%s\n%s", a, b)
	}
	if n := len(vmi.Spec.Domain.Devices.Disks); n != 1 {
		t.Errorf("%d disks for one volume", n)
	}
}

func mustYAML(t *testing.T, obj any) string {
	t.Helper()
	b, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func FuzzAddresses(f *testing.F) {
	for _, seed := range []string{"10.245.0.2", "10.245.0.2,fd00:10:245::2", "fd00::1, 10.0.0.1", "", ",", "::ffff:1.2.3.4", "fe80::1%eth0", "1.1.1.1,1.1.1.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		addrs, err := Addresses(&metav1.ObjectMeta{Annotations: map[string]string{AddressesAnnotation: text}})
		if err != nil {
			return
		}
		again, err := Addresses(&metav1.ObjectMeta{Annotations: map[string]string{AddressesAnnotation: FormatAddresses(addrs)}})
		if err != nil || !slices.Equal(addrs, again) {
			t.Errorf("%q is read as %v, written and read again as %v, %v", text, addrs, again, err)
		}
		if len(addrs) == 0 || len(addrs) > 2 || len(addrs) == 2 && addrs[0].Is4() == addrs[1].Is4() || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Zone() != "" }) {
			t.Errorf("%q gives %v", text, addrs)
		}
	})
}
