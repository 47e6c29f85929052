package link

import (
	"bytes"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// serverID is the same on every node, so that a guest that moved renews its lease
// with whom it is now.
var serverID = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: GatewayMAC}

// answer6 is a DHCPv6 server with one address for one client (RFC 8415, the
// sections named below).
func (r *responder) answer6(q question) []byte {
	// Relayed messages have a type of their own and are refused here.
	msg, err := dhcpv6.MessageFromBytes(q.payload)
	if err != nil || !q.src.IsLinkLocalUnicast() {
		return nil
	}
	client, server := msg.Options.ClientID(), msg.Options.ServerID()
	toUs := server != nil && bytes.Equal(server.ToBytes(), serverID.ToBytes())
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: msg.TransactionID}
	reply.AddOption(dhcpv6.OptServerID(serverID))
	if client != nil {
		reply.AddOption(dhcpv6.OptClientID(client))
	}
	switch msg.Type() { // section 16: what must, and must not, be in each
	case dhcpv6.MessageTypeSolicit:
		if client == nil || server != nil {
			return nil
		}
		if msg.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			reply.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		} else {
			reply.MessageType = dhcpv6.MessageTypeAdvertise
		}
		r.bind(msg, reply)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew:
		if client == nil || !toUs {
			return nil
		}
		r.bind(msg, reply)
	case dhcpv6.MessageTypeRebind:
		if client == nil || server != nil {
			return nil
		}
		r.bind(msg, reply)
	case dhcpv6.MessageTypeConfirm:
		if client == nil || server != nil {
			return nil
		}
		reply.AddOption(r.confirm(msg))
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if client == nil || !toUs {
			return nil
		}
		// It changes nothing: the address stays the guest's (18.3.7, 18.3.8).
		reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
		return udp6(r.guest.MAC, q.src, reply.ToBytes())
	case dhcpv6.MessageTypeInformationRequest:
		if server != nil && !toUs || msg.Options.OneIANA() != nil {
			return nil
		}
	default:
		return nil
	}
	r.inform(reply)
	return udp6(r.guest.MAC, q.src, reply.ToBytes())
}

// bind gives the first association the guest's address and says of all others that
// there is none (18.3.2); an address that isn't the guest's is told to be over by
// lifetimes of zero (18.3.4).
func (r *responder) bind(msg, reply *dhcpv6.Message) {
	mine := net.IP(r.guest.addr(true).AsSlice())
	for i, ia := range msg.Options.IANA() {
		out := &dhcpv6.OptIANA{IaId: ia.IaId}
		if i == 0 {
			out.T1, out.T2 = renewal, rebind
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: mine, PreferredLifetime: lease, ValidLifetime: lease})
			for _, a := range ia.Options.Addresses() {
				if !a.IPv6Addr.Equal(mine) {
					out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
				}
			}
		} else {
			out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "one address for each guest"})
		}
		reply.AddOption(out)
	}
	for _, pd := range msg.Options.IAPD() {
		out := &dhcpv6.OptIAPD{IaId: pd.IaId}
		out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail, StatusMessage: "no prefixes for guests"})
		reply.AddOption(out)
	}
}

// confirm says whether all addresses that the client thinks it has are right here
// (18.3.3).
func (r *responder) confirm(msg *dhcpv6.Message) dhcpv6.Option {
	status := &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess}
	for _, ia := range msg.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			if !a.IPv6Addr.Equal(r.guest.addr(true).AsSlice()) {
				status.StatusCode, status.StatusMessage = iana.StatusNotOnLink, "not this guest's address"
			}
		}
	}
	return status
}

func (r *responder) inform(reply *dhcpv6.Message) {
	if dns := r.guest.dns(true); len(dns) > 0 {
		reply.AddOption(dhcpv6.OptDNS(ips(dns)...))
	}
	if r.search != nil {
		reply.AddOption(dhcpv6.OptDomainSearchList(r.search))
	}
}
