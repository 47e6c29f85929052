package link

import (
	"bytes"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// answer4 is a DHCPv4 server with one address for one client (RFC 2131).
func (r *responder) answer4(q question) []byte {
	msg, err := dhcpv4.FromBytes(q.payload)
	if err != nil || msg.OpCode != dhcpv4.OpcodeBootRequest || msg.HWType != iana.HWTypeEthernet ||
		!bytes.Equal(msg.ClientHWAddr, r.guest.MAC) || isSet(msg.GatewayIPAddr) {
		return nil
	}
	if id := msg.ServerIdentifier(); id != nil && !id.Equal(Gateway4.AsSlice()) {
		return nil // it has chosen another server
	}
	switch msg.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return r.grant(msg, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		// In turn: selecting and rebooting name the address in an option, renewing
		// and rebinding in ciaddr (section 4.3.2).
		wants := msg.RequestedIPAddress()
		if wants == nil {
			wants = msg.ClientIPAddr
		}
		if !wants.Equal(r.guest.addr(false).AsSlice()) {
			return r.refuse(msg)
		}
		return r.grant(msg, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		return r.grant(msg, dhcpv4.MessageTypeAck)
	}
	// Release and decline change nothing: the address stays the guest's.
	return nil
}

// grant makes an offer or an acknowledgement.
func (r *responder) grant(msg *dhcpv4.DHCPv4, kind dhcpv4.MessageType) []byte {
	options := []dhcpv4.Option{
		dhcpv4.OptMessageType(kind),
		dhcpv4.OptServerIdentifier(Gateway4.AsSlice()),
		dhcpv4.OptSubnetMask(net.CIDRMask(32, 32)),
		dhcpv4.OptRouter(Gateway4.AsSlice()),
		// The gateway is in no subnet of the guest's: on-link first, then through
		// it (RFC 3442). Clients that don't know this have their own ways for a /32.
		dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: ipNet(Gateway4, 32), Router: net.IPv4zero},
			&dhcpv4.Route{Dest: ipNet(netip.IPv4Unspecified(), 0), Router: Gateway4.AsSlice()},
		),
		dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(r.mtu >> 8), byte(r.mtu)}),
	}
	if dns := r.guest.dns(false); len(dns) > 0 {
		options = append(options, dhcpv4.OptDNS(ips(dns)...))
	}
	if r.guest.Hostname != "" {
		options = append(options, dhcpv4.OptHostName(r.guest.Hostname))
	}
	addr := dhcpv4.WithYourIP(r.guest.addr(false).AsSlice())
	if msg.MessageType() == dhcpv4.MessageTypeInform {
		addr = dhcpv4.WithYourIP(net.IPv4zero) // section 4.3.5, and no lease
	} else {
		options = append(options, dhcpv4.OptIPAddressLeaseTime(lease), dhcpv4.OptRenewTimeValue(renewal), dhcpv4.OptRebindingTimeValue(rebind))
	}
	reply, err := dhcpv4.NewReplyFromRequest(msg, addr)
	if err != nil {
		return nil
	}
	for _, o := range options {
		reply.UpdateOption(o)
	}
	room := r.room(msg)
	if r.search != nil {
		// What may be too much: the guest can do without.
		reply.UpdateOption(dhcpv4.OptDomainName(r.guest.Search[0]))
		reply.UpdateOption(dhcpv4.OptDomainSearch(r.search))
		if len(reply.ToBytes()) > room {
			reply.DeleteOption(dhcpv4.OptionDNSDomainSearchList)
		}
	}
	return r.send4(msg, reply)
}

// room is how long an answer may be: what every client takes (RFC 2131 section 2:
// an IP packet of 576 bytes), or what it says it takes.
func (r *responder) room(msg *dhcpv4.DHCPv4) int {
	room := 576
	if size, err := msg.MaxMessageSize(); err == nil && int(size) > room {
		room = min(int(size), r.mtu)
	}
	return room - ipv4Header - udpHeader
}

// refuse sends a client that believes in another address back to the start.
func (r *responder) refuse(msg *dhcpv4.DHCPv4) []byte {
	reply, err := dhcpv4.NewReplyFromRequest(msg,
		dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.WithServerIP(net.IPv4zero),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(Gateway4.AsSlice())))
	if err != nil {
		return nil
	}
	return udp4(broadcastMAC, broadcast, reply.ToBytes())
}

// send4 addresses an answer as RFC 2131 section 4.1 says.
func (r *responder) send4(msg, reply *dhcpv4.DHCPv4) []byte {
	switch {
	case isSet(msg.ClientIPAddr):
		if a, ok := netip.AddrFromSlice(msg.ClientIPAddr.To4()); ok {
			return udp4(r.guest.MAC, a, reply.ToBytes())
		}
		return nil
	case msg.IsBroadcast():
		return udp4(broadcastMAC, broadcast, reply.ToBytes())
	}
	return udp4(r.guest.MAC, r.guest.addr(false), reply.ToBytes())
}

func isSet(ip net.IP) bool { return ip != nil && !ip.IsUnspecified() }
