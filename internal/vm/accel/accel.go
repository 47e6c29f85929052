// Package accel decides whether KVM or QEMU's software emulation (TCG) runs
// this machine's guests, and says why in a sentence.
//
// In: the wish of the --vm flag and what the machine shows. Out: a Choice. It
// starts nothing.
//
// An open /dev/kvm proves nothing: under some hypervisors it opens, VMs and
// vCPUs can be created, and yet every privileged instruction is emulated at
// about 10 us each, so that an ordinary kernel never starts. The processor flags
// vmx or svm tell the truth.
package accel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// Mode is what the user wants.
type Mode string

const (
	Auto Mode = "auto" // KVM where it works, else TCG
	KVM  Mode = "kvm"  // KVM or nothing
	TCG  Mode = "tcg"  // software emulation
)

// Choice is what runs guests here.
type Choice struct {
	KVM bool
	// Reason is a CamelCase word for conditions, Message a sentence for people.
	Reason, Message string
}

// ErrNoKVM says that KVM was demanded and can't be had.
var ErrNoKVM = errors.New("KVM can't run guests here")

// Detect looks at this machine.
func Detect(mode Mode) (Choice, error) {
	var open error
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		open = err
	} else {
		f.Close()
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return Choice{}, fmt.Errorf("look for KVM: %w", err)
	}
	return decide(mode, runtime.GOARCH, open, string(cpuinfo))
}

// decide is Detect without the machine: open is what opening /dev/kvm gave.
func decide(mode Mode, arch string, open error, cpuinfo string) (Choice, error) {
	switch mode {
	case Auto, KVM:
	case TCG:
		return Choice{Reason: "EmulationChosen", Message: "Software emulation (TCG) runs guests, because --vm=tcg says so."}, nil
	default:
		return Choice{}, fmt.Errorf("--vm=%s: want auto, kvm, tcg or off", mode)
	}
	reason, message := obstacle(arch, open, cpuinfo)
	if reason == "" {
		return Choice{KVM: true, Reason: "KVM", Message: "KVM runs guests."}, nil
	}
	if mode == KVM {
		return Choice{}, fmt.Errorf("%w: %s Or use --vm=auto, which falls back to software emulation", ErrNoKVM, message)
	}
	return Choice{Reason: reason, Message: "Software emulation (TCG) runs guests, several times slower than KVM: " + message}, nil
}

// obstacle says what keeps KVM from running guests; "" if nothing does.
func obstacle(arch string, open error, cpuinfo string) (reason, message string) {
	if arch != "amd64" {
		return "OtherArchitecture", "guests are x86-64 machines, and this one is " + arch + "."
	}
	if !hasFlag(cpuinfo, "vmx") && !hasFlag(cpuinfo, "svm") {
		return "NoVirtualizationFlags", "the processor shows neither vmx nor svm; switch virtualization on in the firmware, or nested virtualization in the hypervisor that runs this machine."
	}
	switch {
	case errors.Is(open, fs.ErrNotExist):
		return "NoKVMDevice", "there is no /dev/kvm; load the kernel module kvm_intel or kvm_amd with modprobe."
	case errors.Is(open, fs.ErrPermission):
		return "KVMNotPermitted", "/dev/kvm may not be opened; run as root or as a member of the group kvm."
	case open != nil:
		return "KVMUnusable", fmt.Sprintf("opening /dev/kvm failed: %v.", open)
	}
	return "", ""
}

// hasFlag looks for a word in the first processor's "flags" line.
func hasFlag(cpuinfo, flag string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, f := range strings.Fields(value) {
			if f == flag {
				return true
			}
		}
		return false
	}
	return false
}
