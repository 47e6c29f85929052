package qemu

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"portico.dev/portico/internal/vm/spec"
)

func base() spec.Spec {
	return spec.Spec{
		Namespace: "default", Name: "vm", MAC: "02:70:6f:00:00:01", FirmwareUUID: "5d307ca9-b3ef-428c-8861-06e72d69f223",
		MemoryMiB: 128, CPU: spec.CPU{Sockets: 1, Cores: 2, Threads: 1},
	}
}

// has reports whether the option is given with exactly this value.
func has(args []string, option, value string) bool {
	for i := 0; i+1 < len(args); i++ {
		if args[i] == option && args[i+1] == value {
			return true
		}
	}
	return false
}

// VM-03
func TestArgs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*spec.Spec, *Files)
		kvm    bool
		want   [][2]string
		lacks  []string
	}{
		{
			"emulated, direct kernel",
			func(s *spec.Spec, f *Files) {
				s.Kernel = &spec.Kernel{Args: "console=ttyS0 a=b,c"}
				f.Kernel, f.Initrd, f.TapFD = "/k,with=comma", "/i", 5
				f.Environment = "/e,f"
			},
			false,
			[][2]string{
				{"-accel", "tcg,thread=multi,tb-size=128"},
				{"-cpu", "max"},
				{"-smp", "2,sockets=1,cores=2,threads=1"},
				{"-m", "128M"},
				{"-uuid", "5d307ca9-b3ef-428c-8861-06e72d69f223"},
				{"-kernel", "/k,with=comma"},
				{"-initrd", "/i"},
				{"-fw_cfg", "name=opt/dev.portico/environment,file=/e,,f"},
				{"-append", "console=ttyS0 a=b,c"},
				{"-netdev", "tap,id=net0,fd=5"},
				{"-device", `{"driver":"virtio-net-pci","id":"nic0","mac":"02:70:6f:00:00:01","netdev":"net0","romfile":""}`},
				{"-chardev", "socket,id=monitor,fd=3,server=on,wait=off"},
			},
			[]string{"-blockdev", "-action", "-smbios"},
		},
		{
			"KVM, no network, no kernel",
			func(s *spec.Spec, _ *Files) { s.RebootTerminates, s.FirmwareSerial = true, "a,b" },
			true,
			[][2]string{{"-accel", "kvm"}, {"-cpu", "host"}, {"-action", "reboot=shutdown"}, {"-smbios", "type=1,serial=a,,b"}},
			[]string{"-netdev", "-kernel", "-append"},
		},
		{
			"a model keeps its name",
			func(s *spec.Spec, _ *Files) { s.CPU.Model = "Haswell" },
			true,
			[][2]string{{"-cpu", "Haswell"}},
			nil,
		},
		{
			"disks have formats",
			func(s *spec.Spec, f *Files) {
				s.Disks = []spec.Disk{
					{Name: "root", Bus: spec.VirtIO, BootIndex: 1, Serial: "x,y"},
					{Name: "cd", Bus: spec.SATA, CDROM: true, ReadOnly: true},
					{Name: "data", Bus: spec.SCSI},
				}
				f.Disks = []DiskFile{{"/srv/a,b.qcow2", "qcow2", false}, {"/srv/c.iso", "raw", false}, {"/dev/sdx", "raw", true}}
			},
			true,
			[][2]string{
				{"-blockdev", `{"discard":"unmap","driver":"qcow2","file":{"discard":"unmap","driver":"file","filename":"/srv/a,b.qcow2"},"node-name":"disk0","read-only":false}`},
				{"-device", `{"bootindex":1,"drive":"disk0","driver":"virtio-blk-pci","id":"disk0dev","serial":"x,y"}`},
				{"-blockdev", `{"discard":"unmap","driver":"raw","file":{"discard":"unmap","driver":"file","filename":"/srv/c.iso"},"node-name":"disk1","read-only":true}`},
				{"-device", `{"bus":"ide.0","drive":"disk1","driver":"ide-cd","id":"disk1dev"}`},
				{"-blockdev", `{"discard":"unmap","driver":"raw","file":{"discard":"unmap","driver":"host_device","filename":"/dev/sdx"},"node-name":"disk2","read-only":false}`},
				{"-device", `{"driver":"virtio-scsi-pci","id":"scsi0"}`},
				{"-device", `{"bus":"scsi0.0","drive":"disk2","driver":"scsi-hd","id":"disk2dev"}`},
			},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, f := base(), Files{MonitorFD: 3, ConsoleFD: 4}
			tc.change(&s, &f)
			args := Args(s, f, tc.kvm)
			for _, w := range tc.want {
				if !has(args, w[0], w[1]) {
					t.Errorf("no %s %s in\n%s", w[0], w[1], strings.Join(args, "\n"))
				}
			}
			for _, l := range tc.lacks {
				if slices.Contains(args, l) {
					t.Errorf("%s in %v", l, args)
				}
			}
			for _, always := range []string{"-S", "-no-shutdown", "-nodefaults", "-sandbox"} {
				if !slices.Contains(args, always) {
					t.Errorf("no %s", always)
				}
			}
		})
	}
}

// Nothing that a person writes becomes an option of its own.
func FuzzArgs(f *testing.F) {
	f.Add("a,b", "x\" y", "-S,foo=bar")
	f.Fuzz(func(t *testing.T, path, serial, kernelArgs string) {
		s := base()
		plain := len(Args(s, Files{}, false))
		s.Disks = []spec.Disk{{Serial: serial + "x", Bus: spec.VirtIO}}
		s.Kernel = &spec.Kernel{Args: kernelArgs + "x"}
		args := Args(s, Files{Kernel: "/k", Disks: []DiskFile{{Path: path, Format: "raw"}}}, false)
		if got := len(args) - plain; got != 8 { // -blockdev, -device, -kernel and -append with their values
			t.Errorf("%d more words, want 8: %q", got, args)
		}
		for i, a := range args {
			if (a == "-blockdev" || a == "-device") && !json.Valid([]byte(args[i+1])) {
				t.Errorf("%s %s is no JSON", a, args[i+1])
			}
		}
	})
}
