// Package vm runs guests as QEMU processes.
//
// In: a spec.Spec for each guest. Out: a running QEMU with its link, console and
// disks, the guest's state as it changes, and an end that frees all of it. It
// doesn't know the API: package node reads pods and writes their status.
//
// A guest outlives the daemon. All that the next daemon needs is in the guest's
// folder:
//
//	DIR/guests/<instance UID>/
//	    spec.json     what was asked for; written before anything is taken
//	    process.json  pid, start time, boot id, accelerator; written before the guest runs
//	    end.json      how it ended; written when QEMU is gone
//	    qmp.sock      QEMU's monitor
//	    console.sock  the serial console
//	    console.log   the end of what the guest printed
//	    qemu.log      what QEMU complained
//	    disk-*.raw    scratch disks
package vm
