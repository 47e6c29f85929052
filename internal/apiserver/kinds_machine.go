package apiserver

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/core/ipam"
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
				if ownedByMachine(vmi) {
					return nil // the VirtualMachine's author was warned
				}
				return machine.InstanceWarnings(vmi)
			},
			prepareUpdate: func(vmi, old *kubevirtv1.VirtualMachineInstance) { machine.KeepClaims(vmi, old) },
		},
		table: table[*kubevirtv1.VirtualMachineInstance]{
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

// guestPolicy claims a guest's addresses and MAC for its VirtualMachine, or for an
// instance that has none. The claims stand in annotations, where the instance and its
// pod inherit them.
func guestPolicy(guests *ipam.GuestRange) claims.Policy {
	return claims.Policy{
		Claims: func(obj runtime.Object) []ipam.Claim {
			m := obj.(metav1.Object)
			if ownedByMachine(m) {
				return nil // its VirtualMachine holds them
			}
			addrs, err := machine.Addresses(m)
			if err != nil {
				return nil // validation refuses such an object
			}
			mac, err := net.ParseMAC(m.GetAnnotations()[machine.MACAnnotation])
			if err != nil {
				mac = nil
			}
			return ipam.GuestClaims(addrs, mac, m.GetUID())
		},
		Assign: func(obj, _ runtime.Object) (claims.Assignment, error) {
			m := obj.(metav1.Object)
			if ownedByMachine(m) {
				return &guestAssignment{}, nil
			}
			return assignGuest(m, guests)
		},
	}
}

// assignGuest gives a guest the addresses and the MAC that it lacks.
func assignGuest(m metav1.Object, guests *ipam.GuestRange) (claims.Assignment, error) {
	a := &guestAssignment{object: m, guests: guests}
	addrs, err := machine.Addresses(m)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var guest ipam.Guest
	if len(addrs) == 0 {
		if guest, err = guests.Pick(m.GetNamespace(), m.GetName()); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		a.picked = guest.Addrs
	} else if guest, err = guests.Guest(addrs...); err != nil {
		return nil, a.invalid(machine.AddressesAnnotation, err.Error())
	}
	annotations := m.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[machine.AddressesAnnotation] = machine.FormatAddresses(guest.Addrs)
	if annotations[machine.MACAnnotation] == "" {
		annotations[machine.MACAnnotation] = guest.MAC.String()
		if asked := askedMAC(m); asked != "" {
			annotations[machine.MACAnnotation] = asked
		}
	}
	m.SetAnnotations(annotations)
	return a, nil
}

// guestAssignment undoes the hints of a guest whose write failed.
type guestAssignment struct {
	object metav1.Object
	guests *ipam.GuestRange
	picked []netip.Addr
}

func (a *guestAssignment) Commit() {}

func (a *guestAssignment) Release() {
	if len(a.picked) > 0 {
		a.guests.Release(a.picked...)
	}
}

// Conflict leaves a pick of ours marked, so that the next try takes another.
func (a *guestAssignment) Conflict(key string) error {
	if strings.HasPrefix(key, string(ipam.Address)+"/") && len(a.picked) > 0 {
		a.picked = nil
		return nil
	}
	kind, value, _ := strings.Cut(key, "/")
	annotation := machine.AddressesAnnotation
	if kind == string(ipam.MAC) {
		annotation = machine.MACAnnotation
	}
	return a.invalid(annotation, fmt.Sprintf("%s is another guest's; choose another or leave the annotation out", value))
}

func (a *guestAssignment) invalid(annotation, msg string) error {
	path := field.NewPath("metadata", "annotations").Key(annotation)
	return apierrors.NewInvalid(kubevirtv1.VirtualMachineGroupVersionKind.GroupKind(), a.object.GetName(),
		field.ErrorList{field.Invalid(path, a.object.GetAnnotations()[annotation], msg)})
}

// askedMAC is the hardware address that the manifest wants for its first interface.
func askedMAC(m metav1.Object) string {
	var spec *kubevirtv1.VirtualMachineInstanceSpec
	switch obj := m.(type) {
	case *kubevirtv1.VirtualMachine:
		if obj.Spec.Template == nil {
			return ""
		}
		spec = &obj.Spec.Template.Spec
	case *kubevirtv1.VirtualMachineInstance:
		spec = &obj.Spec
	default:
		return ""
	}
	if len(spec.Domain.Devices.Interfaces) == 0 {
		return ""
	}
	mac, err := net.ParseMAC(spec.Domain.Devices.Interfaces[0].MacAddress)
	if err != nil {
		return ""
	}
	return mac.String()
}

func ownedByMachine(m metav1.Object) bool {
	owner := metav1.GetControllerOf(m)
	return owner != nil && owner.Kind == kubevirtv1.VirtualMachineGroupVersionKind.Kind &&
		strings.HasPrefix(owner.APIVersion, kubevirtv1.VirtualMachineGroupVersionKind.Group+"/")
}

// guestHints shows the mirror of claims to the guests' range.
type guestHints struct{ *ipam.GuestRange }

func (g guestHints) Replace(keys iter.Seq[string]) {
	for key := range keys {
		g.Mark(ipam.Claim{Key: key})
	}
}

func (g guestHints) Mark(list ...ipam.Claim) { g.each(list, g.GuestRange.Mark) }
func (g guestHints) Free(list ...ipam.Claim) { g.each(list, g.GuestRange.Release) }

func (g guestHints) each(list []ipam.Claim, do func(...netip.Addr)) {
	for _, claim := range list {
		if ip, ok := strings.CutPrefix(claim.Key, string(ipam.Address)+"/"); ok {
			if addr, err := netip.ParseAddr(ip); err == nil {
				do(addr)
			}
		}
	}
}
