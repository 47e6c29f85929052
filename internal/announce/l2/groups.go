package l2

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// groups are the multicast groups that solicitations for our addresses go to. The link's
// filter lets them in, and the kernel reports them to switches (MLD, RFC 3810) that would
// else not pass them on.
type groups struct {
	index int
	// sockets hold memberships, each at most perSocket: the kernel bounds the memory of
	// one socket's (net.core.optmem_max).
	sockets []*membership
}

// perSocket fits the 20 KiB that optmem_max was for long.
const perSocket = 100

type membership struct {
	fd     int
	groups []netip.Addr
}

func newGroups(index int) *groups { return &groups{index: index} }

// set joins these, and leaves all others.
func (g *groups) set(wanted []netip.Addr) error {
	missing := map[netip.Addr]bool{}
	for _, a := range wanted {
		missing[a] = true
	}
	for _, m := range g.sockets {
		m.groups = slices.DeleteFunc(m.groups, func(a netip.Addr) bool {
			if missing[a] {
				delete(missing, a)
				return false
			}
			_ = unix.SetsockoptIPv6Mreq(m.fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, g.request(a))
			return true
		})
	}
	for a := range missing {
		m, err := g.room()
		if err != nil {
			return err
		}
		if err := unix.SetsockoptIPv6Mreq(m.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, g.request(a)); err != nil {
			return fmt.Errorf("join group %s: %w", a, err)
		}
		m.groups = append(m.groups, a)
	}
	return nil
}

func (g *groups) request(a netip.Addr) *unix.IPv6Mreq {
	return &unix.IPv6Mreq{Multiaddr: a.As16(), Interface: uint32(g.index)}
}

// room gives a socket that takes one more group.
func (g *groups) room() (*membership, error) {
	for _, m := range g.sockets {
		if len(m.groups) < perSocket {
			return m, nil
		}
	}
	// It is bound to no port: it receives nothing.
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for groups: %w", err)
	}
	m := &membership{fd: fd}
	g.sockets = append(g.sockets, m)
	return m, nil
}

func (g *groups) close() {
	for _, m := range g.sockets {
		unix.Close(m.fd) //nolint:errcheck // the kernel leaves the groups
	}
	g.sockets = nil
}
