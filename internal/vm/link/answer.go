package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/rfc1035label"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

const (
	// lease is how long a guest may use its addresses without asking again. They
	// belong to its VirtualMachine for as long as that lives, and guests must
	// outlast the daemon being away.
	lease = 30 * 24 * time.Hour
	// renewal is how soon it asks nevertheless, to learn of other resolvers or
	// another search path.
	renewal = time.Hour
	rebind  = lease * 7 / 8 // RFC 2131 section 4.4.5

	// routerLifetime is the longest there is (RFC 8319 section 3), for the same
	// reason: what an advertisement says lasts while the daemon is away.
	routerLifetime = 65535 * time.Second

	routerSolicitation = 133 // RFC 4861 section 4.1
)

// responder answers one guest. It is a pure function of the guest and the frame.
type responder struct {
	guest  Guest
	mtu    int
	search *rfc1035label.Labels // nil without a search path
	advert []byte               // a router advertisement to all nodes, as a whole frame; nil without IPv6
}

func newResponder(g Guest, mtu int) (*responder, error) {
	r := &responder{guest: g, mtu: mtu}
	if len(g.Search) > 0 {
		r.search = &rfc1035label.Labels{Labels: g.Search}
	}
	if g.addr(true).IsValid() {
		body, err := ndp.MarshalMessageChecksum(r.advertisement(), Gateway6, allNodes)
		if err != nil {
			return nil, fmt.Errorf("make a router advertisement for %s: %w", g, err)
		}
		r.advert = ipv6Frame(allNodesMAC, allNodes, unix.IPPROTO_ICMPV6, body)
	}
	return r, nil
}

var (
	allNodes     = netip.MustParseAddr("ff02::1")
	allNodesMAC  = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1} // RFC 2464 section 7
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	broadcast    = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// answer makes the frame that answers the guest's, or nil.
func (r *responder) answer(frame []byte) []byte {
	q, ok := parse(frame, r.guest.MAC)
	switch {
	case !ok:
		return nil
	case q.src.Is4() && q.port == dhcp4Server && r.guest.addr(false).IsValid():
		return r.answer4(q)
	case q.src.Is4() || !r.guest.addr(true).IsValid():
		return nil
	case q.protocol == unix.IPPROTO_UDP && q.port == dhcp6Server:
		return r.answer6(q)
	case q.protocol == unix.IPPROTO_ICMPV6 && q.payload[0] == routerSolicitation:
		// One guest, one link: an answer to all is an answer to it.
		return r.advert
	}
	return nil
}

// advertisement tells the guest of its router and resolvers. "Managed" sends it to
// DHCPv6 for its address; no prefix is on-link, for there is nobody else on the link.
func (r *responder) advertisement() *ndp.RouterAdvertisement {
	ra := &ndp.RouterAdvertisement{
		CurrentHopLimit:      64,
		ManagedConfiguration: true,
		OtherConfiguration:   true,
		RouterLifetime:       routerLifetime,
		Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: GatewayMAC},
			ndp.NewMTU(uint32(r.mtu)),
		},
	}
	if dns := r.guest.dns(true); len(dns) > 0 {
		ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: routerLifetime, Servers: dns})
	}
	ra.Options = append(ra.Options, searchOptions(r.guest.Search)...)
	// A guest without DHCPv6 may make its address itself, where what it makes is
	// the address that was claimed for it.
	if a := r.guest.addr(true); a == eui64(a, r.guest.MAC) {
		ra.Options = append(ra.Options, &ndp.PrefixInformation{
			PrefixLength: 64, AutonomousAddressConfiguration: true, ValidLifetime: lease, PreferredLifetime: lease,
			Prefix: netip.PrefixFrom(a, 64).Masked().Addr(),
		})
	}
	return ra
}

// searchOptions spreads a search path over as many options as it takes (RFC 8106
// section 5.2 allows several): the encoder counts an option's bytes in eight bits.
// A name that fits into none is left to DHCPv6.
func searchOptions(names []string) []ndp.Option {
	const room = 248 - 8 // the most that eight bits count, less the option's header
	var out []ndp.Option
	var list []string
	used := 0
	for _, name := range names {
		size := len(name) + 2 // a length before each label, and the end
		if size > room {
			continue
		}
		if used+size > room {
			out = append(out, &ndp.DNSSearchList{Lifetime: routerLifetime, DomainNames: list})
			list, used = nil, 0
		}
		list, used = append(list, name), used+size
	}
	if len(list) > 0 {
		out = append(out, &ndp.DNSSearchList{Lifetime: routerLifetime, DomainNames: list})
	}
	return out
}

// eui64 makes the address in a's /64 that belongs to mac (RFC 4291 appendix A).
func eui64(a netip.Addr, mac net.HardwareAddr) netip.Addr {
	b := a.As16()
	copy(b[8:11], mac[:3])
	b[8] ^= 2
	binary.BigEndian.PutUint16(b[11:13], 0xfffe)
	copy(b[13:16], mac[3:])
	return netip.AddrFrom16(b)
}

func ips(addrs []netip.Addr) []net.IP {
	var out []net.IP
	for _, a := range addrs {
		out = append(out, a.AsSlice())
	}
	return out
}
