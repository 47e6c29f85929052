package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"portico.dev/portico/internal/vm/process"
)

// Leftover finds QEMU processes that work in a guests' folder, whether or not
// anything is noted of them and also when the folder is gone: what must not be
// there after all guests were stopped.
func Leftover(dir string) ([]int, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("look for QEMU processes: %w", err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return nil, fmt.Errorf("look for QEMU processes: %w", err)
	}
	var pids []int
	for _, l := range links {
		proc := filepath.Dir(l)
		// "DIR/guests/ID", with " (deleted)" behind it when that is so.
		cwd, err := os.Readlink(l)
		if err != nil || !strings.HasPrefix(cwd, dir+"/") || !isQEMU(proc) {
			continue // somebody else's, or gone meanwhile
		}
		if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// isQEMU looks at the program's name, so that no shell that somebody has in a
// guest's folder is taken for a guest, nor qemu-img that copies its disks.
func isQEMU(proc string) bool {
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	name := filepath.Base(exe)
	return err == nil && (strings.HasPrefix(name, "qemu-system-") || strings.HasPrefix(name, "qemu-kvm"))
}

// KillLeftover ends what Leftover finds and waits for its end. It gives the ids.
func KillLeftover(dir string) ([]int, error) {
	pids, err := Leftover(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, kill(pid))
	}
	return pids, errors.Join(errs...)
}

func kill(pid int) error {
	p, err := hold(pid, func() bool { return isQEMU(filepath.Join("/proc", strconv.Itoa(pid))) })
	if p == nil {
		return err
	}
	return killed(p)
}

// killed ends a process, waits for its end and lets go of it.
func killed(p *process.Process) error {
	defer p.Release()
	if err := p.Kill(); err != nil {
		return err
	}
	<-p.Done()
	return nil
}

// qemusIn holds the QEMUs that work in dir. There may be some with an error.
func qemusIn(dir string) ([]*process.Process, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	pids, err := process.InDirectory(dir)
	var qemus []*process.Process
	for _, pid := range pids {
		p, holdErr := hold(pid, func() bool {
			return process.WorksIn(pid, dir) && isQEMU(filepath.Join("/proc", strconv.Itoa(pid)))
		})
		err = errors.Join(err, holdErr)
		if p != nil {
			qemus = append(qemus, p)
		}
	}
	return qemus, err
}

// hold watches a process that is ours; nil: it is gone, or it isn't. It is looked at once
// it is held, so that no other is taken for it that got its id.
func hold(pid int, ours func() bool) (*process.Process, error) {
	id, err := process.Identify(pid)
	if errors.Is(err, process.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := process.Find(id)
	if errors.Is(err, process.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !ours() {
		p.Release()
		return nil, nil
	}
	return p, nil
}
