package apiserver

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
)

func machineKind() kind[*kubevirtv1.VirtualMachine] {
	return kind[*kubevirtv1.VirtualMachine]{
		gv: kubevirtv1.GroupVersion, plural: "virtualmachines", singular: "virtualmachine", short: []string{"vm", "vms"}, all: true, namespaced: true,
		newObject: func() *kubevirtv1.VirtualMachine { return &kubevirtv1.VirtualMachine{} },
		newList:   func() runtime.Object { return &kubevirtv1.VirtualMachineList{} },
		rules: rules[*kubevirtv1.VirtualMachine]{
			validate:       machine.Validate,
			validateUpdate: machine.ValidateUpdate,
			warnings:       func(vm, _ *kubevirtv1.VirtualMachine) []string { return machine.Warnings(vm) },
			prepareUpdate:  func(vm, old *kubevirtv1.VirtualMachine) { machine.KeepClaims(vm, old) },
		},
		table: table[*kubevirtv1.VirtualMachine]{
			afterAge: 2,
			columns: []metav1.TableColumnDefinition{
				column("Status", "What the machine does."), column("Ready", "Whether it answers its probe."),
			},
			row: func(vm *kubevirtv1.VirtualMachine) []any {
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

func instanceKind() kind[*kubevirtv1.VirtualMachineInstance] {
	return kind[*kubevirtv1.VirtualMachineInstance]{
		gv: kubevirtv1.GroupVersion, plural: "virtualmachineinstances", singular: "virtualmachineinstance", short: []string{"vmi", "vmis"}, all: true, namespaced: true,
		newObject: func() *kubevirtv1.VirtualMachineInstance { return &kubevirtv1.VirtualMachineInstance{} },
		newList:   func() runtime.Object { return &kubevirtv1.VirtualMachineInstanceList{} },
		fields: func(vmi *kubevirtv1.VirtualMachineInstance) fields.Set {
			return fields.Set{"status.phase": string(vmi.Status.Phase), "status.nodeName": vmi.Status.NodeName}
		},
		rules: rules[*kubevirtv1.VirtualMachineInstance]{
			validate:       machine.ValidateInstance,
			validateUpdate: machine.ValidateInstanceUpdate,
			warnings: func(vmi, _ *kubevirtv1.VirtualMachineInstance) []string {
				if machine.OwnedByMachine(vmi) {
					return nil // the VirtualMachine's author was warned
				}
				return machine.InstanceWarnings(vmi)
			},
			prepareUpdate: func(vmi, old *kubevirtv1.VirtualMachineInstance) { machine.KeepClaims(vmi, old) },
		},
		table: table[*kubevirtv1.VirtualMachineInstance]{
			afterAge: 4,
			columns: []metav1.TableColumnDefinition{
				column("Phase", "Where it is in its life."), column("IP", "Primary address."),
				column("NodeName", "Where it runs."), column("Ready", "Whether it answers its probe."),
			},
			row: func(vmi *kubevirtv1.VirtualMachineInstance) []any {
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
