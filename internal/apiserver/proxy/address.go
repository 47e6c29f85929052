package proxy

import (
	"fmt"
	"net/netip"
	"slices"
)

// metadata are addresses by which clouds tell a host its secrets, and that count as
// ordinary unicast. The others are link-local (169.254.169.254).
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS, IMDS by IPv6
	netip.MustParseAddr("168.63.129.16"),   // Azure, the platform's own server
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud, the server by IPv6
}

// Allowed says why the API server must not connect to an address for somebody else, nil
// when it may.
func Allowed(addr netip.Addr) error {
	addr = addr.Unmap()
	if !addr.IsGlobalUnicast() || addr.Zone() != "" || slices.Contains(metadata, addr) {
		return fmt.Errorf("address not allowed: %s", addr)
	}
	return nil
}
