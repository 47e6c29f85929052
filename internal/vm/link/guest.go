package link

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"portico.dev/portico/internal/routes"
)

// Guest is what a link must know of a guest.
type Guest struct {
	ID              string // the instance's UID
	Namespace, Name string // for logs
	MAC             net.HardwareAddr
	Addrs           []netip.Addr // at most one of each family
	Hostname        string
	DNS             []netip.Addr
	Search          []string
}

// What every guest sees of every node, so that a guest that moves notices nothing.
var (
	Gateway4 = netip.MustParseAddr("169.254.1.1")
	Gateway6 = netip.MustParseAddr("fe80::1")
	// GatewayMAC is locally administered; guests' own begin with another octet.
	GatewayMAC = net.HardwareAddr{0x06, 0x70, 0x6f, 0x00, 0x00, 0x01}
)

// addr gives the guest's address of a family; it is invalid without one.
func (g Guest) addr(ipv6 bool) netip.Addr {
	for _, a := range g.Addrs {
		if a.Is6() == ipv6 {
			return a
		}
	}
	return netip.Addr{}
}

// dns lists the resolvers of a family.
func (g Guest) dns(ipv6 bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(g.DNS), func(a netip.Addr) bool { return a.Is6() != ipv6 })
}

func (g Guest) String() string { return g.Namespace + "/" + g.Name }

func (g Guest) equal(o Guest) bool {
	return g.ID == o.ID && g.Namespace == o.Namespace && g.Name == o.Name && bytes.Equal(g.MAC, o.MAC) &&
		slices.Equal(g.Addrs, o.Addrs) && g.Hostname == o.Hostname && slices.Equal(g.DNS, o.DNS) && slices.Equal(g.Search, o.Search)
}

func (g Guest) validate() error {
	var v4, v6 int
	for _, a := range g.Addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() {
			return fmt.Errorf("%v can't be a guest's address", a)
		}
		if a.Is4() {
			v4++
		} else {
			v6++
		}
	}
	for _, name := range g.Search {
		if !validName(name) {
			return fmt.Errorf("%q can't be in a search path", name)
		}
	}
	switch {
	case g.Hostname != "" && !validName(g.Hostname):
		return fmt.Errorf("%q can't be a host name", g.Hostname)
	case g.ID == "" || len(g.ID) > 255: // IFALIASZ, with its end
		return fmt.Errorf("%q can't be an instance's UID", g.ID)
	case len(g.MAC) != 6 || g.MAC[0]&1 != 0 || bytes.Equal(g.MAC, GatewayMAC) || bytes.Equal(g.MAC, make([]byte, 6)):
		return fmt.Errorf("%s can't be a guest's hardware address", g.MAC)
	case v4+v6 == 0:
		return errors.New("the guest has no address")
	case v4 > 1 || v6 > 1:
		return fmt.Errorf("the guest has more than one address of a family: %v", g.Addrs)
	}
	return nil
}

// validName tells whether a name can go on the wire as labels (RFC 1035 section
// 3.1). Whether it makes sense is for the API to say.
func validName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return false
		}
	}
	return true
}

// linkName is the tap's name: 35 bits of a hash of the ID, which keeps the name
// within IFNAMSIZ and can be found again. The alias says which ID it is.
func linkName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return routes.LinkPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:7])
}
