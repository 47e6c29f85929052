package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
)

// sysctls are below net/ipv4/vs (Documentation/networking/ipvs-sysctl.rst); they hold for
// this network namespace, for virtual servers of others too, and are 0 without us.
var sysctls = []string{
	"conntrack",                 // conntrack follows, so that sources can be masqueraded and states told
	"expire_nodest_conn",        // a connection whose backend was deleted ends with its next packet
	"expire_quiescent_template", // affinity to a backend that leaves ends
}

const sysctlDir = "/proc/sys/net/ipv4/vs/"

func setSysctls() error   { return writeSysctls("1") }
func resetSysctls() error { return writeSysctls("0") }

func writeSysctls(value string) error {
	for _, name := range sysctls {
		err := os.WriteFile(sysctlDir+name, []byte(value), 0o644)
		if name == "conntrack" && errors.Is(err, fs.ErrNotExist) {
			return errors.New("the kernel's IPVS can't work with conntrack (CONFIG_IP_VS_NFCT)")
		}
		if err != nil {
			return fmt.Errorf("set net.ipv4.vs.%s: %w", name, err)
		}
	}
	return nil
}

// Missing says what this host lacks for IPVS with a scheduler; nil: nothing. It is tried in
// a network namespace of its own, so nothing of the host's changes.
func Missing(scheduler string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- lacks(scheduler)
	}()
	return <-done
}

func lacks(scheduler string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("this process may not make a network namespace, which needs CAP_SYS_ADMIN: %w", err)
	}
	b, err := New(Config{Scheduler: scheduler})
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // it was only tried
	if err := errors.Join(b.router.raise(), setSysctls()); err != nil {
		return err
	}
	w := &wanted{definition: definition{scheduler: b.cfg.Scheduler, persistent: 1}}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		k := key{netip.AddrPortFrom(netip.MustParseAddr(a), 1), catalog.TCP}
		if err := b.servers.put(k, w); err != nil {
			return err
		}
	}
	if err := b.servers.flush(); err != nil {
		return err
	}
	if err := b.router.add(routesOf(nil, nil)); err != nil {
		return err
	}
	return b.tables.replace(b.site(nil), map[fact]int{})
}

// Remains names what this network namespace has of ours.
func Remains() (words []string, err error) {
	t, err := openTables()
	if err != nil {
		return nil, err
	}
	defer t.Close() //nolint:errcheck // it was only asked
	ours, err := t.ours()
	if err != nil {
		return nil, err
	}
	if len(ours) > 0 {
		words = append(words, fmt.Sprintf("%d virtual servers of IPVS", len(ours)))
	}
	for _, f := range t.families {
		if ok, err := t.has(f); err != nil {
			return nil, err
		} else if ok {
			words = append(words, "nftables table "+f.name())
		}
	}
	r, err := openRouter(0)
	if err != nil {
		return nil, err
	}
	defer r.close()
	rules, routes, err := r.held()
	if len(rules)+len(routes) > 0 {
		words = append(words, fmt.Sprintf("routing table %d", routeTable))
	}
	return words, err
}

// Remove takes away what a node that was run with this data plane has left.
func Remove(_ context.Context, log *slog.Logger) error {
	b, err := New(Config{Logger: log})
	if errors.Is(err, errNoIPVS) { // then there are no virtual servers either
		return removeAround()
	}
	if err != nil {
		return err
	}
	return errors.Join(b.remove(), b.Close())
}

// removeAround takes away what isn't IPVS.
func removeAround() error {
	t, err := openTables()
	if err != nil {
		return err
	}
	r, err := openRouter(0)
	if err != nil {
		return errors.Join(err, t.Close())
	}
	defer r.close()
	return errors.Join(t.remove(), r.remove(), t.Close())
}
