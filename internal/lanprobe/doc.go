// Package lanprobe asks the networks that this host is on whether addresses are somebody's
// already: by ARP (RFC 826, in the form of RFC 5227) and by neighbour solicitations
// (RFC 4861).
//
// In: addresses. Out: whose hardware address answered, and which addresses no link of this
// host has as its neighbours, so that nobody could be asked. It changes nothing: what it
// sends claims no address, and it leaves when it has asked.
package lanprobe
