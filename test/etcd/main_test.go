// Package etcd proves what becomes of the API and its data when the store is an etcd
// cluster, of which members die, when a disk fills up, and when a snapshot is all that
// is left. Servers and members are processes of their own, in namespaces (network,
// mounts, processes) that end with the tests.
package etcd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/cli"
)

// roleVariable says what a process of this test binary is.
const roleVariable = "PORTICO_TEST_ROLE"

const (
	rolePortico = "portico"
	roleMember  = "member"
	roleTests   = "tests" // in their namespaces
)

// The addresses of the two API servers.
const (
	addressA = "192.0.2.1"
	addressB = "192.0.2.2"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case rolePortico:
		os.Exit(cli.Main(os.Args[1:]))
	case roleMember:
		os.Exit(member(os.Args[1:]))
	case roleTests:
		if err := makeHost(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Println("skipped: needs root for namespaces")
		return
	}
	os.Exit(inNamespaces())
}

// inNamespaces runs the tests once more, as the first process of new namespaces: all
// that they start ends with it.
func inNamespaces() int {
	runtime.LockOSThread() // to which the death signal is bound
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+roleTests)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "run the tests in namespaces:", err)
	return 1
}

// makeHost makes the new namespaces a host.
func makeHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc of the new processes: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, a := range []string{addressA, addressB} {
		addr, err := netlink.ParseAddr(a + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("add %s: %w", a, err)
		}
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
