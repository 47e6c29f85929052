// Package machines turns VirtualMachines into instances and instances into pods,
// and brings the pods' states back into the statuses above.
//
//	VirtualMachine -> VirtualMachineInstance -> Pod -> (scheduler, node)
//	    status    <-         status         <- status
//
// In: watches of the three. Out: instances and pods, created and deleted; the
// statuses of machines and instances; two finalizers; events. It never writes a
// pod's status (the node does) nor a machine's spec.
//
// What to do is decided by core/machine; this package reads, asks it, and
// writes. Each sync looks at everything anew, children have names that follow
// from their parents, and deletions name the UID they mean, so that it doesn't
// matter in which order events come, whether a cache is behind, or whether a
// second controller thinks that it leads: the same children come out.
package machines
