package apiserver

import (
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/machine"
)

// guestPolicy claims a guest's addresses and MAC for its VirtualMachine, or for an
// instance that has none. The claims stand in annotations, where the instance and its
// pod inherit them.
func guestPolicy(guests *ipam.GuestRange, mirror *claims.Mirror) claims.Policy {
	return claims.Policy{
		Claims: func(obj runtime.Object) []ipam.Claim {
			return machine.Claims(obj.(metav1.Object))
		},
		Assign: func(obj, old runtime.Object) (claims.Assignment, error) {
			m := obj.(metav1.Object)
			if machine.OwnedByMachine(m) {
				return &guestAssignment{}, nil
			}
			was, _ := old.(metav1.Object)
			return assignGuest(m, was, guests)
		},
		Free:    guestHints{GuestRange: guests}.Free, // the mirror alone knows more
		Refresh: mirror.Refresh,
	}
}

// assignGuest gives a guest the addresses and the MAC that it lacks. What the stored
// object has is its own, also where the range was changed since.
func assignGuest(m, old metav1.Object, guests *ipam.GuestRange) (claims.Assignment, error) {
	a := &guestAssignment{object: m, guests: guests}
	text := m.GetAnnotations()[machine.AddressesAnnotation]
	mac := m.GetAnnotations()[machine.MACAnnotation]
	if old != nil && text != "" && mac != "" && old.GetAnnotations()[machine.AddressesAnnotation] == text {
		return a, nil
	}
	addrs, err := machine.Addresses(m)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var guest ipam.Guest
	if len(addrs) == 0 {
		if guest, err = guests.Pick(m.GetNamespace(), m.GetName()); err != nil {
			return nil, &kinds.CausedError{StatusError: apierrors.NewInternalError(err), Cause: err}
		}
		a.picked = guest.Addrs
	} else if guest, err = guests.Guest(addrs...); err != nil {
		return nil, a.invalid(addressesPath, text, err.Error())
	}
	if mac == "" {
		if mac = askedMAC(m); mac == "" {
			mac, a.derivedMAC = guest.MAC.String(), true
		}
	}
	annotations := maps.Clone(m.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[machine.AddressesAnnotation] = machine.FormatAddresses(guest.Addrs)
	annotations[machine.MACAnnotation] = mac
	m.SetAnnotations(annotations)
	return a, nil
}

var (
	addressesPath = field.NewPath("metadata", "annotations").Key(machine.AddressesAnnotation)
	macPath       = field.NewPath("metadata", "annotations").Key(machine.MACAnnotation)
)

// guestAssignment undoes the hints of a guest whose write failed.
type guestAssignment struct {
	object     metav1.Object
	guests     *ipam.GuestRange
	picked     []netip.Addr // by us
	derivedMAC bool         // from the address
}

func (a *guestAssignment) Requires() []string { return nil }

func (a *guestAssignment) Commit() {}

func (a *guestAssignment) Release() {
	if len(a.picked) > 0 {
		a.guests.Release(a.picked...)
	}
}

// Conflict leaves a pick of ours marked, so that the next try takes another: with
// another address comes another derived MAC.
func (a *guestAssignment) Conflict(key string) error {
	kind, value, _ := strings.Cut(key, "/")
	isMAC := kind == string(ipam.MAC)
	if len(a.picked) > 0 && (!isMAC || a.derivedMAC) {
		a.picked = nil
		return nil
	}
	const another = "%s is another guest's; choose another, or leave it out to be given one"
	switch {
	case !isMAC:
		return a.invalid(addressesPath, a.object.GetAnnotations()[machine.AddressesAnnotation], fmt.Sprintf(another, value))
	case a.derivedMAC:
		return a.invalid(addressesPath, a.object.GetAnnotations()[machine.AddressesAnnotation],
			fmt.Sprintf("the hardware address that follows from it, %s, is another guest's; set %s too", value, machine.MACAnnotation))
	}
	return a.invalid(macPath, value, fmt.Sprintf(another, value))
}

func (a *guestAssignment) invalid(path *field.Path, value, msg string) error {
	kind := kubevirtv1.VirtualMachineGroupVersionKind
	if _, ok := a.object.(*kubevirtv1.VirtualMachineInstance); ok {
		kind = kubevirtv1.VirtualMachineInstanceGroupVersionKind
	}
	return apierrors.NewInvalid(kind.GroupKind(), a.object.GetName(), field.ErrorList{field.Invalid(path, value, msg)})
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

// guestHints shows the claims to the guests' range.
type guestHints struct {
	*ipam.GuestRange
	known map[string]bool // claims on addresses that the mirror showed
}

func newGuestHints(r *ipam.GuestRange) guestHints {
	return guestHints{GuestRange: r, known: map[string]bool{}}
}

// Replace frees what was known and is claimed no more. The range itself can't tell.
func (g guestHints) Replace(keys iter.Seq[string]) {
	gone := maps.Clone(g.known)
	for key := range keys {
		delete(gone, key)
		g.Mark(ipam.Claim{Key: key})
	}
	for key := range gone {
		g.Free(ipam.Claim{Key: key})
	}
}

func (g guestHints) Mark(list ...ipam.Claim) {
	g.each(list, func(key string, addr netip.Addr) {
		g.known[key] = true
		g.GuestRange.Mark(addr)
	})
}

func (g guestHints) Free(list ...ipam.Claim) {
	g.each(list, func(key string, addr netip.Addr) {
		delete(g.known, key)
		g.GuestRange.Release(addr)
	})
}

func (g guestHints) each(list []ipam.Claim, do func(key string, addr netip.Addr)) {
	for _, claim := range list {
		if ip, ok := strings.CutPrefix(claim.Key, string(ipam.Address)+"/"); ok {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				continue
			}
			if _, err := g.Guest(addr); err == nil { // else a Service's
				do(claim.Key, addr)
			}
		}
	}
}
