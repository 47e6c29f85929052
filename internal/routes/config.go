package routes

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

const (
	// Bridge is the link that carries the node's own addresses of the cluster.
	Bridge = "portico0"
	// LinkPrefix begins the names of the links towards guests.
	LinkPrefix = "portico-"
	// RouteProtocol marks our routes ("proto 112"), so that they are told from
	// anybody else's. The number is in nobody's rt_protos.
	RouteProtocol netlink.RouteProtocol = 112
	// PeerProtocol marks the routes to other nodes ("proto 113"), likewise.
	PeerProtocol netlink.RouteProtocol = 113
	// Table is the name of our nftables table, of family inet.
	Table = "portico-routes"
	// LinkTable is the name of the one that guards the guests' links.
	LinkTable = "portico-links"
	// PeerTable is the name of the one that keeps strangers out of the tunnels.
	PeerTable = "portico-peers"
)

// Config says what network the node is to have. Each list of ranges has at most
// one of each family.
type Config struct {
	Services []netip.Prefix // cluster IPs, until SetServices says others
	Cluster  []netip.Prefix // pods, of all nodes
	Guests   []netip.Prefix // guests, of all nodes
	PodCIDRs []netip.Prefix // this node's part of Cluster; not needed by Check
	StateDir string         // where the record of changed sysctls is kept
	Log      *slog.Logger

	forceGlobal bool // for tests: do as on kernels without force_forwarding
}

// ranges lists all of the cluster's ranges with the flag that sets each.
func (c Config) ranges() []namedRange {
	var out []namedRange
	for _, r := range []struct {
		flag     string
		prefixes []netip.Prefix
	}{{"--service-cidr", c.Services}, {"--cluster-cidr", c.Cluster}, {"--guest-cidr", c.Guests}} {
		for _, p := range r.prefixes {
			out = append(out, namedRange{r.flag, p})
		}
	}
	return out
}

type namedRange struct {
	flag   string
	prefix netip.Prefix
}

func (r namedRange) String() string { return r.flag + " " + r.prefix.String() }

// ParseRanges reads a flag's value: one range or, comma separated, one of each
// family.
func ParseRanges(flag, value string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range strings.Split(value, ",") {
		s = strings.TrimSpace(s)
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not an address range; write it like 10.96.0.0/12 or fd00:10:96::/112", flag, s)
		}
		out = append(out, p)
	}
	return out, checkList(flag, out)
}

func checkList(flag string, list []netip.Prefix) error {
	if len(list) == 0 {
		return fmt.Errorf("%s is empty; give one range, or one of each family", flag)
	}
	var v4, v6 int
	for _, p := range list {
		if err := checkRange(flag, p); err != nil {
			return err
		}
		if p.Addr().Is4() {
			v4++
		} else {
			v6++
		}
	}
	if v4 > 1 || v6 > 1 {
		return fmt.Errorf("%s has %d IPv4 and %d IPv6 ranges; give at most one of each family", flag, v4, v6)
	}
	return nil
}

// checkRange refuses what can't be a range of unicast addresses of ours.
func checkRange(flag string, p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return fmt.Errorf("%s has an invalid range; write it like 10.96.0.0/12 or fd00:10:96::/112", flag)
	case a.Is4In6():
		return fmt.Errorf("%s %s is an IPv4 range in IPv6 notation; write it as IPv4", flag, p)
	case p != p.Masked():
		return fmt.Errorf("%s %s has bits set beyond its length; did you mean %s?", flag, p, p.Masked())
	case a.BitLen()-p.Bits() < 2:
		// The node's address and the network's own leave no room below that.
		return fmt.Errorf("%s %s has room for %d addresses only; choose a shorter prefix", flag, p, 1<<(a.BitLen()-p.Bits()))
	}
	for _, special := range specialRanges {
		if p.Overlaps(special.prefix) {
			return fmt.Errorf("%s %s contains %s addresses (%s); choose a private range such as 10.96.0.0/12 or fd00:10:96::/112",
				flag, p, special.what, special.prefix)
		}
	}
	return nil
}

var specialRanges = []struct {
	what   string
	prefix netip.Prefix
}{
	{"unspecified", netip.MustParsePrefix("0.0.0.0/8")},
	{"loopback", netip.MustParsePrefix("127.0.0.0/8")},
	{"link-local", netip.MustParsePrefix("169.254.0.0/16")},
	{"multicast and reserved", netip.MustParsePrefix("224.0.0.0/3")},
	{"unspecified, loopback and IPv4-mapped", netip.MustParsePrefix("::/80")},
	{"link-local", netip.MustParsePrefix("fe80::/10")},
	{"multicast", netip.MustParsePrefix("ff00::/8")},
}

// own gives the node's own address of its pod range: the first after the
// network's, .1 or ::1.
func own(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// family picks the range of one family; it is invalid when there is none.
func family(list []netip.Prefix, ipv6 bool) netip.Prefix {
	for _, p := range list {
		if p.Addr().Is6() == ipv6 {
			return p
		}
	}
	return netip.Prefix{}
}
