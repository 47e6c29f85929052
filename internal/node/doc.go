// Package node runs the pods that are bound to this node, and is the only writer
// of their status.
//
// In: this node's pods, by a watch; a Runtime that runs their workloads. Out:
// pod.status, events, and at the end of a deleted pod the removal of its object,
// as a kubelet does all three. It knows nothing of QEMU: package machines is the
// Runtime for virtual machines, and containers will be another.
//
// Each pod has one worker, a goroutine that looks at what is wanted and what is
// there and does the next thing. Everything that happens only wakes it, so it
// doesn't matter how many events it missed or whether an earlier daemon began.
package node
