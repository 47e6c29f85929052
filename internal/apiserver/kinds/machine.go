package kinds

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/machine"
)

func MachineKind() registry.Kind[*kubevirtv1.VirtualMachine] {
	return registry.Kind[*kubevirtv1.VirtualMachine]{
		GroupVersion: kubevirtv1.GroupVersion, Plural: "virtualmachines", Singular: "virtualmachine", Short: []string{"vm", "vms"}, All: true, Namespaced: true,
		NewObject: func() *kubevirtv1.VirtualMachine { return &kubevirtv1.VirtualMachine{} },
		NewList:   func() runtime.Object { return &kubevirtv1.VirtualMachineList{} },
		Rules: registry.Rules[*kubevirtv1.VirtualMachine]{
			Validate:       machine.Validate,
			ValidateUpdate: machine.ValidateUpdate,
			Warnings:       func(vm, _ *kubevirtv1.VirtualMachine) []string { return machine.Warnings(vm) },
			PrepareUpdate:  func(vm, old *kubevirtv1.VirtualMachine) { machine.KeepClaims(vm, old) },
		},
		Table: registry.Table[*kubevirtv1.VirtualMachine]{
			AfterAge: 2,
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Status", "What the machine does."), registry.Column("Ready", "Whether it answers its probe."),
			},
			Row: func(vm *kubevirtv1.VirtualMachine) []any {
				ready := "False"
				for _, c := range vm.Status.Conditions {
					if c.Type == kubevirtv1.VirtualMachineReady {
						ready = string(c.Status)
					}
				}
				return []any{string(vm.Status.PrintableStatus), ready}
			},
		},
	}
}

func InstanceKind() registry.Kind[*kubevirtv1.VirtualMachineInstance] {
	return registry.Kind[*kubevirtv1.VirtualMachineInstance]{
		GroupVersion: kubevirtv1.GroupVersion, Plural: "virtualmachineinstances", Singular: "virtualmachineinstance", Short: []string{"vmi", "vmis"}, All: true, Namespaced: true,
		NewObject: func() *kubevirtv1.VirtualMachineInstance { return &kubevirtv1.VirtualMachineInstance{} },
		NewList:   func() runtime.Object { return &kubevirtv1.VirtualMachineInstanceList{} },
		Fields: func(vmi *kubevirtv1.VirtualMachineInstance) fields.Set {
			return fields.Set{"status.phase": string(vmi.Status.Phase), "status.nodeName": vmi.Status.NodeName}
		},
		Rules: registry.Rules[*kubevirtv1.VirtualMachineInstance]{
			Validate:       machine.ValidateInstance,
			ValidateUpdate: machine.ValidateInstanceUpdate,
			Warnings: func(vmi, _ *kubevirtv1.VirtualMachineInstance) []string {
				if machine.OwnedByMachine(vmi) {
					return nil // the VirtualMachine's author was warned
				}
				return machine.InstanceWarnings(vmi)
			},
			PrepareUpdate: func(vmi, old *kubevirtv1.VirtualMachineInstance) { machine.KeepClaims(vmi, old) },
		},
		Table: registry.Table[*kubevirtv1.VirtualMachineInstance]{
			AfterAge: 4,
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Phase", "Where it is in its life."), registry.Column("IP", "Primary address."),
				registry.Column("NodeName", "Where it runs."), registry.Column("Ready", "Whether it answers its probe."),
			},
			Row: func(vmi *kubevirtv1.VirtualMachineInstance) []any {
				ip, ready := "", "False"
				if len(vmi.Status.Interfaces) > 0 {
					ip = vmi.Status.Interfaces[0].IP
				}
				for _, c := range vmi.Status.Conditions {
					if c.Type == kubevirtv1.VirtualMachineInstanceReady {
						ready = string(c.Status)
					}
				}
				return []any{string(vmi.Status.Phase), ip, vmi.Status.NodeName, ready}
			},
		},
	}
}
