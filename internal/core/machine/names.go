package machine

// Annotations of ours on VirtualMachines, VirtualMachineInstances and their pods.
const (
	// AddressesAnnotation holds the guest's addresses, one per family, the
	// primary first, comma separated: "10.245.0.2,fd00:10:245::2". The API
	// server claims them when the VirtualMachine (or an instance without one)
	// is created and frees them when it is gone.
	AddressesAnnotation = "portico.dev/addresses"
	// MACAnnotation holds the guest's hardware address: "02:70:6f:00:00:01".
	MACAnnotation = "portico.dev/mac-address"
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
