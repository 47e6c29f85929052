package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// StandBack has the process run only where nobody else wants to: it is to serve those that
// are measured, and not to take processors from them. The lowest nice value isn't enough: who
// has it still ends its turn while another, just woken, waits (sched(7), SCHED_IDLE).
func (p *Process) StandBack() error {
	idle := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	if err := eachThread(p.ID(), func(id int) error { return unix.SchedSetAttr(id, idle, 0) }); err != nil {
		return fmt.Errorf("lower the priority of %s: %w", p.name, err)
	}
	return nil
}

// Apart gives the calling goroutine's thread a processor of its own, as a client on another
// machine has: the other threads of this process, and those of the others, get the rest until
// back is called by the same goroutine. With one processor nothing changes.
func Apart(others ...*Process) (back func() error, err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("ask for this process's processors: %w", err)
	}
	if all.Count() < 2 {
		return func() error { return nil }, nil
	}
	own, rest := unix.CPUSet{}, all
	for cpu := 0; own.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			own.Set(cpu)
			rest.Clear(cpu)
		}
	}
	processes := []int{os.Getpid()}
	for _, p := range others {
		processes = append(processes, p.ID())
	}
	confine := func(to *unix.CPUSet) (err error) {
		for _, id := range processes {
			err = errors.Join(err, eachThread(id, func(thread int) error { return unix.SchedSetaffinity(thread, to) }))
		}
		return err
	}
	runtime.LockOSThread()
	back = func() error {
		defer runtime.UnlockOSThread()
		return confine(&all)
	}
	if err := errors.Join(confine(&rest), unix.SchedSetaffinity(0, &own)); err != nil {
		return nil, fmt.Errorf("share the processors: %w", errors.Join(err, back()))
	}
	return back, nil
}

// eachThread calls do for all threads of a process; later ones begin as the thread is that
// starts them. One that has ended meanwhile is no error.
func eachThread(process int, do func(id int) error) error {
	done := map[int]bool{}
	for before := -1; before < len(done); {
		before = len(done)
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", process))
		if err != nil {
			return fmt.Errorf("list the threads of process %d: %w", process, err)
		}
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil || done[id] {
				continue
			}
			if err := do(id); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			done[id] = true
		}
	}
	return nil
}
