package catalog

import (
	"fmt"
	"net/netip"
)

// Fault is a part of an object that can't be served and is left out of its
// value. Our API server refuses most of them; objects of other API servers, and of
// controllers that write statuses, have them all the same.
type Fault struct {
	Reason FaultReason
	Field  string // its path in the object
	Value  string // what stands there, its first maxValue bytes
	// Endpoint is set where the fault concerns one endpoint with an address.
	Endpoint *Endpoint
}

// FaultReason is the kind of a fault.
type FaultReason uint8

// The kinds of faults.
const (
	BadAddress  FaultReason = iota + 1 // nobody's address, or not for Services
	WrongFamily                        // an address of the slice's other family
	BadPort                            // no number of a port
	BadProtocol
	BadRange // a source range that is none
	BadAddressType
	NoPorts
	BadScheduler
)

var faults = [...]struct{ name, text string }{
	BadAddress:     {"BadAddress", "%q can't be used: write an IP address of a host; loopback, link-local, multicast, broadcast and unspecified ones are none"},
	WrongFamily:    {"WrongFamily", "%q is of the other family than the slice: move it to a slice with that addressType"},
	BadPort:        {"BadPort", "%s is no port: write a number from 1 to 65535"},
	BadProtocol:    {"BadProtocol", "%q isn't served: write TCP, UDP or SCTP"},
	BadRange:       {"BadSourceRange", "%q is no range of addresses: write it like 203.0.113.0/24; until then it admits nobody"},
	BadAddressType: {"BadAddressType", "%s isn't served: write IPv4 or IPv6, with IP addresses"},
	BadScheduler:   {"BadScheduler", "%q is no scheduler of IPVS: write one of rr, wrr, lc, wlc, lblc, lblcr, sh, mh, dh, sed, nq, fo, ovf; until then the node's default picks the backends"},
	NoPorts:        {"NoPorts", "there is none%s, so nothing can be reached: add one, or make the Service headless (clusterIP: None)"},
}

// String is the reason's name in conditions and events.
func (r FaultReason) String() string { return faults[r].name }

// Text says what is wrong and how to mend it.
func (f *Fault) Text() string { return fmt.Sprintf(faults[f.Reason].text, f.Value) }

// usable reports whether packets may be sent to an address on behalf of somebody
// else. Loopback would lead to this node's own daemons, link-local addresses to
// whatever is on a link (169.254.169.254 among them), and an unspecified one means
// all addresses of the node.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() &&
		!a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// faultList collects the faults of one object. Paths are made for faults only:
// nearly every object has none.
type faultList []Fault

func (l *faultList) add(r FaultReason, value any, path string, args ...any) {
	text := fmt.Sprint(value)
	*l = append(*l, Fault{Reason: r, Field: fmt.Sprintf(path, args...), Value: text[:min(len(text), maxValue)]})
}

// maxValue is room for any address, and for enough of anything else to find it by.
const maxValue = 64

// addrs reads those of a list that can be used.
func (l *faultList) addrs(path string, list []string) (out []netip.Addr) {
	for i, text := range list {
		if a, ok := parseAddr(text); ok {
			out = append(out, a)
		} else {
			l.add(BadAddress, text, "%s[%d]", path, i)
		}
	}
	return out
}

func parseAddr(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	return a, err == nil && usable(a)
}

// portNumber reads a port's number. A number too large must not become another one
// by losing its upper bits.
func portNumber(n int32) (uint16, bool) {
	if n < 1 || n > 65535 {
		return 0, false
	}
	return uint16(n), true
}
