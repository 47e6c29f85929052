package accel

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	const plain = "processor\t: 0\nflags\t\t: fpu vme sse2 hypervisor\nbugs\t: svm vmx\n"
	const intel = "processor\t: 0\nflags\t\t: fpu vmx sse2\n"
	const amd = "processor\t: 0\nflags\t\t: fpu svm sse2\n"
	for _, tc := range []struct {
		name    string
		mode    Mode
		arch    string
		open    error
		cpuinfo string
		kvm     bool
		reason  string
		err     error
	}{
		{"intel", Auto, "amd64", nil, intel, true, "KVM", nil},
		{"amd, demanded", KVM, "amd64", nil, amd, true, "KVM", nil},
		{"opens but has no flags", Auto, "amd64", nil, plain, false, "NoVirtualizationFlags", nil},
		{"the same, demanded", KVM, "amd64", nil, plain, false, "", ErrNoKVM},
		{"no device", Auto, "amd64", fs.ErrNotExist, intel, false, "NoKVMDevice", nil},
		{"not permitted", Auto, "amd64", fs.ErrPermission, intel, false, "KVMNotPermitted", nil},
		{"broken", Auto, "amd64", errors.New("no such device or address"), intel, false, "KVMUnusable", nil},
		{"KVM of another architecture", Auto, "arm64", nil, "Features : fp asimd\n", false, "OtherArchitecture", nil},
		{"chosen", TCG, "amd64", nil, intel, false, "EmulationChosen", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := decide(tc.mode, tc.arch, tc.open, tc.cpuinfo)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if got.KVM != tc.kvm || got.Reason != tc.reason {
				t.Errorf("got %+v, want KVM %v for reason %s", got, tc.kvm, tc.reason)
			}
			if err == nil && !strings.HasSuffix(got.Message, ".") {
				t.Errorf("message %q is no sentence", got.Message)
			}
		})
	}
	if _, err := decide("yes", "amd64", nil, intel); err == nil {
		t.Error("--vm=yes was accepted")
	}
}
