package resolved

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of org.freedesktop.resolve1(5).
const (
	service = "org.freedesktop.resolve1"
	path    = dbus.ObjectPath("/org/freedesktop/resolve1")
	manager = "org.freedesktop.resolve1.Manager."
)

const (
	// callFor bounds one call; resolved answers these from memory.
	callFor = 5 * time.Second
	// again is how long to wait for a bus that isn't there or went away: it may come
	// later in the boot, and most hosts without one never get one.
	again = 30 * time.Second
)

// Link says which names are to be asked for where.
type Link struct {
	Index   int // of the network interface
	Servers []netip.Addr
	// Domains are without a final dot: the cluster's, and the zones of its addresses'
	// reverse names.
	Domains []string
	Bus     string // address of the bus; empty: the system's
	Log     *slog.Logger
}

// Keep has resolved know the link until ctx ends. Where there is no resolved it waits for
// one: nothing depends on it.
func Keep(ctx context.Context, l Link) error {
	said := ""
	for {
		if err := l.session(ctx); err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			l.Log.Debug("The host's own programs don't find the cluster's names", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}

// session works on one connection to the bus until that ends, or ctx.
func (l *Link) session(ctx context.Context) error {
	conn, err := l.connect()
	if err != nil {
		return fmt.Errorf("connect to the system's bus: %w", err)
	}
	defer conn.Close()
	owners := make(chan *dbus.Signal, 16)
	conn.Signal(owners) // closed with the connection
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)); err != nil {
		return fmt.Errorf("follow %s on the bus: %w", service, err)
	}
	set := l.try(ctx, conn)
	defer func() {
		if set {
			l.revert(context.WithoutCancel(ctx), conn)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-owners:
			if !ok {
				set = false
				return errors.New("the bus went away")
			}
			// name, old owner, new owner
			if len(s.Body) == 3 && s.Body[0] == service && s.Body[2] != "" {
				set = l.try(ctx, conn)
			}
		}
	}
}

func (l *Link) connect() (*dbus.Conn, error) {
	if l.Bus == "" {
		return dbus.ConnectSystemBus()
	}
	return dbus.Connect(l.Bus)
}

// try reports whether there is something to be taken back at the end.
func (l *Link) try(ctx context.Context, conn *dbus.Conn) bool {
	var there bool
	if err := l.call(ctx, conn.BusObject(), "org.freedesktop.DBus.NameHasOwner", service).Store(&there); err != nil || !there {
		return false
	}
	if err := ours(ctx, conn); err != nil {
		l.Log.Debug("systemd-resolved is left alone", "error", err)
		return false
	}
	if err := l.set(ctx, conn); err != nil {
		l.Log.Warn("systemd-resolved doesn't take the cluster's domain; this host's own programs don't find its names", "error", err)
		return true // it may have taken a part
	}
	l.Log.Info("systemd-resolved asks here for the cluster's names", "domains", l.Domains, "servers", l.Servers)
	return true
}

// ours refuses a resolved whose links are those of another network namespace, as when
// this one is a container's and the bus the host's.
func ours(ctx context.Context, conn *dbus.Conn) error {
	var pid uint32
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, service).Store(&pid); err != nil {
		return fmt.Errorf("find resolved's process: %w", err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("find resolved's network namespace: %w", err)
	}
	mine, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("find our network namespace: %w", err)
	}
	if mine != theirs {
		return fmt.Errorf("resolved is in the network namespace %s, we are in %s", theirs, mine)
	}
	return nil
}

// server and domain are what the calls take: (iay) and (sb).
type server struct {
	Family  int32
	Address []byte
}

type domain struct {
	Name string
	// RouteOnly: names below it are asked for here, and it is in nobody's search path.
	RouteOnly bool
}

// Address families of Linux.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

// set tells resolved the link's servers and domains. They aren't signed, nobody else
// is on the link, and other names aren't its business.
func (l *Link) set(ctx context.Context, conn *dbus.Conn) error {
	var servers []server
	for _, a := range l.Servers {
		family := int32(familyIPv6)
		if a.Is4() {
			family = familyIPv4
		}
		servers = append(servers, server{family, a.AsSlice()})
	}
	var domains []domain
	for _, name := range l.Domains {
		domains = append(domains, domain{name, true})
	}
	o := conn.Object(service, path)
	for _, c := range []struct {
		method string
		value  any
	}{
		{"SetLinkDefaultRoute", false},
		{"SetLinkLLMNR", "no"},
		{"SetLinkMulticastDNS", "no"},
		{"SetLinkDNSSEC", "no"},
		{"SetLinkDNS", servers},
		{"SetLinkDomains", domains},
	} {
		if err := l.call(ctx, o, manager+c.method, int32(l.Index), c.value).Err; err != nil {
			return fmt.Errorf("%s of link %d: %w", c.method, l.Index, err)
		}
	}
	return nil
}

func (l *Link) revert(ctx context.Context, conn *dbus.Conn) {
	if err := l.call(ctx, conn.Object(service, path), manager+"RevertLink", int32(l.Index)).Err; err != nil {
		l.Log.Warn("systemd-resolved keeps the cluster's domain until the link goes", "error", err)
	}
}

// call never has the bus start anybody.
func (l *Link) call(ctx context.Context, o dbus.BusObject, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	return o.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
}
