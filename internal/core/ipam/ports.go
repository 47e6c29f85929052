package ipam

import (
	"fmt"
	"strconv"
	"strings"
)

// PortRange hands out node ports by number: TCP, UDP and SCTP aren't told apart
// (ALLOC-02).
type PortRange struct {
	first, last uint16
	numbers     *numbers
}

// NewPortRange makes a range of the ports from first to last with nothing taken. A
// nil random is the usual one.
func NewPortRange(first, last uint16, random Random) (*PortRange, error) {
	if first == 0 || last < first {
		return nil, fmt.Errorf("port range %d-%d: must run upwards within 1-65535", first, last)
	}
	size := uint64(last-first) + 1
	return &PortRange{first: first, last: last, numbers: newNumbers(size, band(size, 32, 128), random)}, nil
}

// ParsePortRange reads "30000-32767".
func ParsePortRange(s string) (first, last uint16, err error) {
	low, high, ok := strings.Cut(s, "-")
	a, errLow := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	b, errHigh := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	if !ok || errLow != nil || errHigh != nil || a == 0 || b < a {
		return 0, 0, fmt.Errorf("port range %q: write it as FIRST-LAST within 1-65535, such as 30000-32767", s)
	}
	return uint16(a), uint16(b), nil
}

// String gives the range as ParsePortRange reads it.
func (r *PortRange) String() string { return fmt.Sprintf("%d-%d", r.first, r.last) }

// Contains reports whether the range can give the port, taken or not.
func (r *PortRange) Contains(port int32) bool {
	return port >= int32(r.first) && port <= int32(r.last)
}

// Next marks and returns a free port, from the upper part as long as it has one.
func (r *PortRange) Next() (int32, error) {
	n, ok := r.numbers.next()
	if !ok {
		return 0, fullError(r.String())
	}
	return int32(r.first) + int32(n), nil
}

// Mark notes that the port is taken and reports whether that was news.
func (r *PortRange) Mark(port int32) (bool, error) {
	if !r.Contains(port) {
		return false, r.notInRange()
	}
	return r.numbers.mark(r.number(port)), nil
}

// Release notes that the port is free again and reports whether that was news.
func (r *PortRange) Release(port int32) bool {
	return r.Contains(port) && r.numbers.release(r.number(port))
}

// Taken reports whether the port is marked.
func (r *PortRange) Taken(port int32) bool {
	return r.Contains(port) && r.numbers.has(r.number(port))
}

// Free gives the number of ports that aren't marked.
func (r *PortRange) Free() uint64 { return r.numbers.free() }

func (r *PortRange) number(port int32) uint64 { return uint64(port - int32(r.first)) }

func (r *PortRange) notInRange() error {
	return &NotInRangeError{Valid: r.String()}
}
