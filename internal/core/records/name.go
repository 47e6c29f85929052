package records

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Sizes of RFC 1035 2.3.4, on the wire.
const (
	maxLabel = 63
	maxName  = 255
)

// Name is a domain name in wire form (RFC 1035 3.1): labels behind their
// lengths, lower case, with the root's empty label at the end. It is a string so
// that it can be a key.
type Name string

// Root is the name of the root.
const Root Name = "\x00"

// ErrName says that a text is no domain name.
var ErrName = errors.New("not a domain name")

// ParseName reads a name as people write it, with or without the final dot.
// Escapes (RFC 4343 2.1) are refused: no name of the API has them.
func ParseName(text string) (Name, error) {
	n, ok := under(Root, strings.Split(strings.TrimSuffix(text, "."), ".")...)
	if text == "." {
		return Root, nil
	}
	if !ok || strings.ContainsRune(text, '\\') {
		return "", fmt.Errorf("%q: %w: labels are 1 to %d bytes, the name at most %d", text, ErrName, maxLabel, maxName-2)
	}
	return n, nil
}

// under puts labels before parent; false when the result would be no legal name.
func under(parent Name, labels ...string) (Name, bool) {
	size := len(parent)
	for _, l := range labels {
		if len(l) == 0 || len(l) > maxLabel {
			return "", false
		}
		size += 1 + len(l)
	}
	if size > maxName {
		return "", false
	}
	b := make([]byte, 0, size)
	for _, l := range labels {
		b = append(b, byte(len(l)))
		for i := range len(l) {
			b = append(b, lower(l[i]))
		}
	}
	return Name(append(b, parent...)), true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// String writes the name as a master file would, with its final dot.
func (n Name) String() string {
	if n == Root {
		return "."
	}
	var b strings.Builder
	for i := 0; i < len(n) && n[i] != 0; i += 1 + int(n[i]) {
		for _, c := range []byte(n[i+1 : i+1+int(n[i])]) {
			switch {
			case c == '.' || c == '\\':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c <= ' ' || c > '~':
				fmt.Fprintf(&b, "\\%03d", c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
	}
	return b.String()
}

// IsUnder reports whether name is zone or a name below it.
func (n Name) IsUnder(zone Name) bool { return suffixAt(n, zone) >= 0 }

// IsReverse reports whether name lies where addresses have theirs.
func (n Name) IsReverse() bool { return n.IsUnder(arpa4) || n.IsUnder(arpa6) }

// suffixAt gives the offset in name at which the labels of zone begin, or -1.
func suffixAt[N Name | []byte](name N, zone Name) int {
	i := 0
	for len(name)-i > len(zone) {
		i += 1 + int(name[i])
	}
	if len(name)-i != len(zone) || string(name[i:]) != string(zone) {
		return -1
	}
	return i
}

// Where the addresses' names lie (RFC 1035 3.5, RFC 3596 2.5).
const (
	arpa4 Name = "\x07in-addr\x04arpa\x00"
	arpa6 Name = "\x03ip6\x04arpa\x00"
)

// ReverseName is the name that holds the PTR records of an address.
func ReverseName(a netip.Addr) Name {
	a = a.Unmap()
	raw := a.AsSlice()
	var b []byte
	for i := len(raw) - 1; i >= 0; i-- {
		if a.Is4() {
			digits := strconv.Itoa(int(raw[i]))
			b = append(append(b, byte(len(digits))), digits...)
			continue
		}
		b = append(b, 1, hexDigit(raw[i]&15), 1, hexDigit(raw[i]>>4))
	}
	if a.Is4() {
		return Name(b) + arpa4
	}
	return Name(b) + arpa6
}

// key is what stands for a name in the trie: an address' name is long and says little.
func (n Name) key() string {
	if p, ok := reversePrefix([]byte(n)); ok && p.IsSingleIP() {
		return string(appendAddrKey(nil, p.Addr()))
	}
	return string(n)
}

const addrKeySize = 1 + 16

// appendAddrKey marks addresses by a byte with which no name begins.
func appendAddrKey(b []byte, a netip.Addr) []byte {
	b = append(b, 0xFF)
	if a.Is4() {
		raw := a.As4()
		return append(b, raw[:]...)
	}
	raw := a.As16()
	return append(b, raw[:]...)
}

func hexDigit(v byte) byte { return "0123456789abcdef"[v] }

// reversePrefix reads a name below in-addr.arpa or ip6.arpa back. A name that is
// shorter than an address' is the prefix of all the addresses below it; the two
// apexes themselves and names that mean no address give false.
func reversePrefix(name []byte) (netip.Prefix, bool) {
	if at := suffixAt(name, arpa4); at > 0 {
		return reverse4(name[:at])
	}
	if at := suffixAt(name, arpa6); at > 0 {
		return reverse6(name[:at])
	}
	return netip.Prefix{}, false
}

func reverse4(labels []byte) (netip.Prefix, bool) {
	var octets [4]byte
	n := 0
	for i := 0; i < len(labels); i += 1 + int(labels[i]) {
		l := labels[i+1 : i+1+int(labels[i])]
		v := 0
		for _, c := range l {
			if c < '0' || c > '9' || v > 25 {
				return netip.Prefix{}, false
			}
			v = v*10 + int(c-'0')
		}
		if n == 4 || v > 255 || len(l) > 1 && l[0] == '0' {
			return netip.Prefix{}, false
		}
		octets[n] = byte(v)
		n++
	}
	var raw [4]byte
	for i := range n {
		raw[i] = octets[n-1-i]
	}
	return netip.PrefixFrom(netip.AddrFrom4(raw), 8*n), true
}

func reverse6(labels []byte) (netip.Prefix, bool) {
	// Each label is one hexadecimal digit: two bytes with its length.
	n := len(labels) / 2
	if n > 32 || len(labels)%2 != 0 {
		return netip.Prefix{}, false
	}
	var raw [16]byte
	for i := range n {
		at := len(labels) - 2 - 2*i
		c := labels[at+1]
		switch {
		case labels[at] != 1:
			return netip.Prefix{}, false
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return netip.Prefix{}, false
		}
		raw[i/2] |= c << (4 * (1 - i%2))
	}
	return netip.PrefixFrom(netip.AddrFrom16(raw), 4*n), true
}

// dashed is the label that stands for an address: 10-245-0-2, fd00-10-245--2. A
// label can neither begin nor end with a dash, so a zero goes there.
func dashed(a netip.Addr) string {
	s := strings.NewReplacer(".", "-", ":", "-").Replace(a.WithZone("").String())
	if strings.HasPrefix(s, "-") {
		s = "0" + s
	}
	if strings.HasSuffix(s, "-") {
		s += "0"
	}
	return s
}

// undashed reads such a label back: three single dashes make an IPv4 address,
// everything else may be IPv6.
func undashed(label []byte) (netip.Addr, bool) {
	var text [maxLabel]byte
	dashes, double := 0, false
	for i, c := range label {
		if c == '-' {
			dashes++
			double = double || i > 0 && label[i-1] == '-'
		}
	}
	sep := byte(':')
	if dashes == 3 && !double {
		sep = '.'
	}
	for i, c := range label {
		if c == '-' {
			c = sep
		} else if c == '.' || c == ':' || c == '%' {
			return netip.Addr{}, false
		}
		text[i] = c
	}
	a, err := netip.ParseAddr(string(text[:len(label)]))
	return a, err == nil && (a.Is4() == (sep == '.'))
}
