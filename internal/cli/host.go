package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// namespaceClaim is the name of an abstract socket (unix(7)) that the one agent of a
// network namespace holds: such names belong to a network namespace, and vanish with
// their holder, however it ends.
const namespaceClaim = "@portico-agent"

// claimNamespace makes this process the one that programs this network namespace:
// names of links and tables are the same for every data directory.
func claimNamespace() (release func(), err error) {
	l, err := net.Listen("unix", namespaceClaim)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		pid, uid := claimant()
		if uid != 0 {
			return func() {}, nil // an agent is root; nobody else may keep one from starting
		}
		return nil, fmt.Errorf("another Portico (process %d) handles this host's network; stop it first, or run this one in a network namespace of its own", pid)
	case err != nil:
		return nil, fmt.Errorf("claim this network namespace: %w", err)
	}
	return func() { l.Close() }, nil
}

// claimant is who holds the claim.
func claimant() (pid, uid int) {
	c, err := net.Dial("unix", namespaceClaim)
	if err != nil {
		return 0, 0
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid, uid = int(cred.Pid), int(cred.Uid)
		}
	})
	return pid, uid
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the machine's boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// ownNamespace names this process's network namespace, like "net:[4026531840]".
func ownNamespace() (string, error) {
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return "", fmt.Errorf("find the network namespace: %w", err)
	}
	return ns, nil
}

// inNamespace finds a process in a network namespace, 0 when none is to be seen.
func inNamespace(namespace string) int {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return 0
	}
	for _, l := range links {
		var pid int
		if to, err := os.Readlink(l); err == nil && to == namespace {
			if _, err := fmt.Sscanf(l, "/proc/%d/", &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}

// ourTables lists the nftables tables of this network namespace whose names begin
// with ours, in words.
func ourTables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if errors.Is(err, fs.ErrPermission) {
		return nil, fs.ErrPermission
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	families := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}
	var out []string
	for _, t := range tables {
		if family := families[t.Family]; family != "" && (t.Name == "portico" || strings.HasPrefix(t.Name, "portico-")) {
			out = append(out, family+" "+t.Name)
		}
	}
	return out, nil
}

// listenTCP opens a listener, or says what keeps it from it.
func listenTCP(flag, addr string) (net.Listener, error) {
	// Not MPTCP, Go's default: nothing here needs it, and sockmap refuses it.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err == nil {
		return l, nil
	}
	remedy := "choose another"
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		remedy = "free the port (`ss -ltnp` shows who has it) or choose another"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		remedy = "choose an address that this host has (`ip address` lists them)"
	case errors.Is(err, unix.EACCES):
		remedy = "choose a port above 1023, or run as root"
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return nil, fmt.Errorf("%s %s: %w; %s", flag, addr, err, remedy)
}
