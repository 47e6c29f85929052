package machine

import (
	"net"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/ipam"
)

// Claims gives what a VirtualMachine claims, or an instance that has none: its addresses
// and its hardware address, which stand in annotations.
func Claims(obj metav1.Object) []ipam.Claim {
	if OwnedByMachine(obj) {
		return nil // its VirtualMachine holds them
	}
	addrs, err := Addresses(obj)
	if err != nil {
		return nil // validation refuses such an object
	}
	mac, err := net.ParseMAC(obj.GetAnnotations()[MACAnnotation])
	if err != nil {
		mac = nil
	}
	return ipam.GuestClaims(addrs, mac, obj.GetUID())
}

// OwnedByMachine tells an instance that a VirtualMachine made.
func OwnedByMachine(obj metav1.Object) bool {
	owner := metav1.GetControllerOf(obj)
	return owner != nil && owner.Kind == kubevirtv1.VirtualMachineGroupVersionKind.Kind &&
		strings.HasPrefix(owner.APIVersion, kubevirtv1.VirtualMachineGroupVersionKind.Group+"/")
}
