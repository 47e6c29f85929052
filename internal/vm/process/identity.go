// Package process starts programs that outlive the daemon, and finds them again.
//
// In: a command, or what was noted of one that an earlier daemon started. Out: a
// Process that tells when it ends and can be killed, whoever its parent is. A
// process is named by its id, its start time and the machine's boot, because ids
// are used again.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrGone says that a process has ended, or that another has its id now.
var ErrGone = errors.New("the process is gone")

// Identity names a process for good.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks after boot
	Boot  string `json:"boot"`  // the kernel's random id of this boot
}

// Identify names the process that has pid now.
func Identify(pid int) (Identity, error) {
	start, err := startTime(pid)
	if err != nil {
		return Identity{}, err
	}
	boot, err := BootID()
	if err != nil {
		return Identity{}, err
	}
	return Identity{pid, start, boot}, nil
}

// BootID changes with every start of the machine.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the machine's boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// startTime is field 22 of /proc/PID/stat (proc_pid_stat(5)). Field 2 is the
// program's name in parentheses and may hold anything, so fields are counted
// from the last parenthesis. A zombie counts as gone.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("look at process %d: its stat file has %d fields", pid, len(fields))
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return 0, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// InDirectory finds the processes whose working directory is dir.
func InDirectory(dir string) ([]int, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, proc := range procs {
		if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil && WorksIn(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// WorksIn reports whether a process has dir as working directory: that very folder, for in
// another mount namespace its path may be another's. The paths are compared first, since to
// look at a folder may take forever where it is on a network.
func WorksIn(pid int, dir string) bool {
	cwd := filepath.Join("/proc", strconv.Itoa(pid), "cwd")
	if to, err := os.Readlink(cwd); err != nil || to != dir {
		return false
	}
	have, err := os.Stat(cwd)
	if err != nil {
		return false
	}
	want, err := os.Stat(dir)
	return err == nil && os.SameFile(have, want)
}
