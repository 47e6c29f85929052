// Package probe asks a guest whether it is ready or alive, as a kubelet asks a
// container.
//
// In: a probe as the API has it, the guest's address, a clock. Out: each change
// of the verdict. What counts as success, and how many answers change the
// verdict, is decided by a pure state machine; only the checks touch the network.
package probe
