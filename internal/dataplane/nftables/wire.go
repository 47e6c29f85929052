package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// attrs builds netlink attributes (linux/netlink.h): a header of length and
// type in host order, the payload, padding to four bytes.
type attrs []byte

func (a *attrs) bytes(typ uint16, payload []byte) {
	a.header(typ, len(payload))
	*a = append(*a, payload...)
	a.pad()
}

func (a *attrs) header(typ uint16, length int) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(4+length))
	*a = binary.NativeEndian.AppendUint16(*a, typ)
}

func (a *attrs) pad() {
	for len(*a)%4 != 0 {
		*a = append(*a, 0)
	}
}

// string is NUL-terminated, as nf_tables names are.
func (a *attrs) string(typ uint16, s string) {
	a.header(typ, len(s)+1)
	*a = append(append(*a, s...), 0)
	a.pad()
}

// u32 is big-endian, as all numbers of nf_tables attributes are.
func (a *attrs) u32(typ uint16, v uint32) {
	a.header(typ, 4)
	*a = binary.BigEndian.AppendUint32(*a, v)
}

// text is a payload that happens to be in a string.
func (a *attrs) text(typ uint16, payload string) {
	a.header(typ, len(payload))
	*a = append(*a, payload...)
	a.pad()
}

func (a *attrs) nest(typ uint16, fill func(*attrs)) {
	start := len(*a)
	*a = append(*a, 0, 0, 0, 0)
	fill(a)
	binary.NativeEndian.PutUint16((*a)[start:], uint16(len(*a)-start))
	binary.NativeEndian.PutUint16((*a)[start+2:], typ|unix.NLA_F_NESTED)
}

// attr is one parsed attribute.
type attr struct {
	typ     uint16
	nested  bool
	payload []byte
}

// nextAttr gives a buffer's first attribute and what follows it. more is false where
// nothing is left.
func nextAttr(b []byte) (a attr, rest []byte, more bool, err error) {
	if len(b) < 4 {
		return a, nil, false, nil
	}
	n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
	if n < 4 || n > len(b) {
		return a, nil, false, fmt.Errorf("netlink attribute %d of %d bytes in %d", typ, n, len(b))
	}
	a = attr{typ: typ &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER), nested: typ&unix.NLA_F_NESTED != 0, payload: b[4:n]}
	return a, b[min((n+3)&^3, len(b)):], true, nil
}

// parseAttrs splits a buffer into attributes.
func parseAttrs(b []byte) (out []attr, err error) {
	for {
		a, rest, more, err := nextAttr(b)
		if err != nil || !more {
			return out, err
		}
		out, b = append(out, a), rest
	}
}

// find gives the payload of the first attribute of a type along a path of nested
// attributes, nil when there is none.
func find(b []byte, path ...uint16) []byte {
	for _, typ := range path {
		if b = findOne(b, typ); b == nil {
			return nil
		}
	}
	return b
}

func findOne(b []byte, typ uint16) []byte {
	for {
		a, rest, more, err := nextAttr(b)
		switch {
		case err != nil || !more:
			return nil
		case a.typ == typ:
			return a.payload
		}
		b = rest
	}
}

func cString(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

func bigU32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// covers reports whether every attribute that we sent is in what the kernel
// shows, with the same payload; the kernel may show more (defaults, handles).
// The nth of a type is compared with the nth.
func covers(shown, sent []byte) bool {
	ours, err := parseAttrs(sent)
	if err != nil {
		return false
	}
	theirs, err := parseAttrs(shown)
	if err != nil {
		return false
	}
	used := map[uint16]int{}
	for _, o := range ours {
		t := nth(theirs, o.typ, used[o.typ])
		used[o.typ]++
		switch {
		case t == nil:
			return false
		case o.nested:
			if !covers(t.payload, o.payload) {
				return false
			}
		case !bytes.Equal(t.payload, o.payload):
			return false
		}
	}
	return true
}

func nth(as []attr, typ uint16, n int) *attr {
	for i := range as {
		if as[i].typ == typ {
			if n == 0 {
				return &as[i]
			}
			n--
		}
	}
	return nil
}
