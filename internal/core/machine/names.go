package machine

import (
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations of ours on VirtualMachines, VirtualMachineInstances and their pods.
const (
	// AddressesAnnotation holds the guest's addresses, one per family, the
	// primary first, comma separated: "10.245.0.2,fd00:10:245::2". The API
	// server claims them when the VirtualMachine (or an instance without one)
	// is created and frees them when it is gone.
	AddressesAnnotation = "portico.dev/addresses"
	// MACAnnotation holds the guest's hardware address: "02:70:6f:00:00:01".
	MACAnnotation = "portico.dev/mac-address"
	// ServiceLinksAnnotation is what enableServiceLinks is to a pod: with "false" the
	// guest is told of the Service default/kubernetes alone (ENV-01). An instance's counts,
	// which has it from the template; it is read at the guest's start.
	ServiceLinksAnnotation = "portico.dev/enable-service-links"
)

// Conditions of ours.
const (
	// LabelsPending on a VirtualMachine: its template has labels that the
	// running instance hasn't; the message names the keys and how to apply them.
	LabelsPending = "LabelsPending"
	// AcceleratedCondition on a pod and its VirtualMachineInstance: True when
	// KVM runs the guest, False with the reason when software emulation does.
	AcceleratedCondition = "portico.dev/Accelerated"
)

// ServiceLinks says whether the guest wants variables for its namespace's Services;
// that is the default.
func ServiceLinks(meta *metav1.ObjectMeta) (bool, error) {
	value, ok := meta.Annotations[ServiceLinksAnnotation]
	if !ok {
		return true, nil
	}
	wanted, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("annotation %s is %q; write \"true\" or \"false\"", ServiceLinksAnnotation, value)
	}
	return wanted, nil
}
