package machine

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// now is the time in all tests; API times have whole seconds.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// testVM is a valid machine with nothing special; change makes it special.
func testVM(change ...func(*kubevirtv1.VirtualMachine)) *kubevirtv1.VirtualMachine {
	memory := resource.MustParse("128Mi")
	vm := &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web", Namespace: "ns", UID: "vm-uid", Generation: 3,
			Annotations: map[string]string{AddressesAnnotation: "10.245.0.2,fd00:10:245::2", MACAnnotation: "02:70:6f:00:00:01"},
		},
		Spec: kubevirtv1.VirtualMachineSpec{
			RunStrategy: ptr(kubevirtv1.RunStrategyAlways),
			Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"special": "key"}},
				Spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
					Memory: &kubevirtv1.Memory{Guest: &memory},
					Firmware: &kubevirtv1.Firmware{KernelBoot: &kubevirtv1.KernelBoot{Container: &kubevirtv1.KernelBootContainer{
						Image: "i", KernelPath: "/k",
					}}},
				}},
			},
		},
	}
	for _, c := range change {
		c(vm)
	}
	SetDefaults(vm)
	return vm
}

func strategy(s kubevirtv1.VirtualMachineRunStrategy) func(*kubevirtv1.VirtualMachine) {
	return func(vm *kubevirtv1.VirtualMachine) { vm.Spec.RunStrategy = &s }
}

func running(r bool) func(*kubevirtv1.VirtualMachine) {
	return func(vm *kubevirtv1.VirtualMachine) { vm.Spec.RunStrategy, vm.Spec.Running = nil, &r }
}

// instanceOf is vm's instance as the API server returns it, in a phase.
func instanceOf(vm *kubevirtv1.VirtualMachine, uid types.UID, phase kubevirtv1.VirtualMachineInstancePhase) *kubevirtv1.VirtualMachineInstance {
	vmi := InstanceFor(vm)
	vmi.UID = uid
	vmi.Status.Phase = phase
	return vmi
}

func deleting(vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineInstance {
	vmi = vmi.DeepCopy()
	vmi.DeletionTimestamp = &metav1.Time{Time: now}
	return vmi
}

func findVM(conditions []kubevirtv1.VirtualMachineCondition, kind kubevirtv1.VirtualMachineConditionType) *kubevirtv1.VirtualMachineCondition {
	for _, c := range conditions {
		if c.Type == kind {
			return &c
		}
	}
	return nil
}

func findVMI(conditions []kubevirtv1.VirtualMachineInstanceCondition, kind kubevirtv1.VirtualMachineInstanceConditionType) *kubevirtv1.VirtualMachineInstanceCondition {
	for _, c := range conditions {
		if c.Type == kind {
			return &c
		}
	}
	return nil
}

// The manifests of examples/ are accepted by strict clients, without a word.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal(data, &kind); err != nil {
				t.Fatal(err)
			}
			switch kind.Kind {
			case "Namespace":
				err = yaml.UnmarshalStrict(data, &corev1.Namespace{})
			case "Service":
				err = yaml.UnmarshalStrict(data, &corev1.Service{})
			case "VirtualMachine":
				vm := &kubevirtv1.VirtualMachine{}
				if err = yaml.UnmarshalStrict(data, vm); err != nil {
					break
				}
				SetDefaults(vm)
				for _, e := range Validate(vm) {
					t.Error(e)
				}
				for _, w := range Warnings(vm) {
					t.Error(w)
				}
			default:
				t.Errorf("unexpected kind %q", kind.Kind)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}
