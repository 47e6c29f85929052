package tracked

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// Frontend gives the key of the frontend that a flow's client sent to: of those that has
// knows, the one at the address itself, else the node port where node says that it is the
// node's address.
func Frontend(f *conntrack.Flow, has func(routing.Key) bool, node func(netip.Addr) bool) (routing.Key, bool) {
	to := &f.TupleOrig
	key := routing.Key{Addr: to.IP.DestinationAddress.Unmap(), Protocol: catalog.Protocol(to.Proto.Protocol), Port: to.Proto.DestinationPort}
	if has(key) {
		return key, true
	}
	if !node(key.Addr) {
		return key, false
	}
	if key.Addr.Is6() {
		key.Addr = netip.IPv6Unspecified()
	} else {
		key.Addr = netip.IPv4Unspecified()
	}
	return key, has(key)
}

// Connections counts the translated flows of each frontend of contents. c may have been
// opened in another network namespace than the caller's: it reads that one.
func Connections(c *conntrack.Conn, contents *dataplane.Contents) (map[routing.Key]int, error) {
	known := make(map[routing.Key]bool, len(contents.Frontends))
	for i := range contents.Frontends {
		known[contents.Frontends[i].Key] = true
	}
	all, err := c.Dump(nil)
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}
	has := func(k routing.Key) bool { return known[k] }
	node := func(a netip.Addr) bool { return slices.Contains(contents.NodeAddresses, a) }
	out := map[routing.Key]int{}
	for i := range all {
		if key, ok := Frontend(&all[i], has, node); ok && all[i].Status.DstNAT() {
			out[key]++
		}
	}
	return out, nil
}

// End deletes the flows that are stale, in the network namespace of the calling thread. It
// lists all that is tracked there. One that ended by itself meanwhile is no failure.
func End(stale func(*conntrack.Flow) bool) error {
	c, err := conntrack.Dial(nil)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer c.Close() //nolint:errcheck // it was only asked
	all, err := c.Dump(nil)
	if err != nil {
		return fmt.Errorf("list conntrack entries: %w", err)
	}
	for i := range all {
		if !stale(&all[i]) {
			continue
		}
		if err := c.Delete(all[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete a flow from conntrack: %w", err)
		}
	}
	return nil
}
