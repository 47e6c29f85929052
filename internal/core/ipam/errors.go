package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrFull: nothing is left to choose from (ALLOC-06).
	ErrFull = errors.New("range is full")
	// ErrAddressAllocated and ErrPortAllocated: somebody else holds the choice.
	ErrAddressAllocated = errors.New("provided IP is already allocated")
	ErrPortAllocated    = errors.New("provided port is already allocated")
)

// NotInRangeError: the choice, an address or a port, isn't one that the cluster can give.
type NotInRangeError struct {
	Addr  netip.Addr // the address; not valid when a port was chosen
	Valid string     // the range: "10.96.0.0/12" or "30000-32767"
}

// Error has the words of Kubernetes, which tools search for the range.
func (e *NotInRangeError) Error() string {
	if e.Addr.IsValid() {
		return fmt.Sprintf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", e.Addr, e.Valid)
	}
	return "provided port is not in the valid range. The range of valid ports is " + e.Valid
}

// fullError names the range that is full.
func fullError(valid string) error { return fmt.Errorf("%w: %s", ErrFull, valid) }
