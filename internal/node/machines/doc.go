// Package machines is the node's runtime for virtual machines: it joins pods and
// their VirtualMachineInstances with guests of package vm, and probes them.
//
// In: a pod, the instance that owns it, guests. Out: node.Workloads. It reads the
// API once for each start and writes nothing to it; after a restart of the daemon
// it needs only what is kept beside the guest.
package machines
