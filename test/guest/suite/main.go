//go:build linux

// Command suite is process 1 of a guest that runs one program and ends: it mounts what
// programs expect, loads /modules, runs /program with the lines of /args and /env, prints
// all of its output to the first virtio console, then how it ended, and powers off.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// console is a virtio console, which costs an emulated processor less than a serial line.
const console = "/dev/hvc0"

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the init program of a test guest, not a command")
		os.Exit(1)
	}
	out := io.Writer(os.Stdout)
	err := mountAll()
	if f, e := os.OpenFile(console, os.O_WRONLY|unix.O_NOCTTY, 0); e == nil {
		out = f
	} else {
		err = errors.Join(err, e)
	}
	if err == nil {
		err = loadModules()
	}
	if err == nil {
		err = run(out)
	}
	end := "suite: ok"
	if err != nil {
		end = "suite: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	fmt.Fprintf(out, "\n%s\n", end)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	time.Sleep(time.Hour) // process 1 must not return; the machine ends first
}

func mountAll() error {
	for _, m := range []struct{ what, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return nil
}

func loadModules() error {
	list, err := os.ReadFile("/modules/load")
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open("/modules/" + name + ".ko")
		if err != nil {
			return fmt.Errorf("load a module: %w", err)
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load the module %s: %w", name, err)
		}
		f.Close()
	}
	return nil
}

// run runs the program and collects the orphans that it leaves.
func run(out io.Writer) error {
	args, err := lines("/args")
	if err != nil {
		return err
	}
	env, err := lines("/env")
	if err != nil {
		return err
	}
	cmd := exec.Command("/program", args...)
	cmd.Env = append([]string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp"}, env...)
	cmd.Dir = "/tmp"
	cmd.Stdout, cmd.Stderr = out, out
	return cmd.Run()
}

func lines(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return strings.Split(string(b), "\n"), nil
}
