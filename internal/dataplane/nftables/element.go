package nftables

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// Every field of a concatenated key fills whole 32-bit words. Addresses and
// ports are in network order, a slot's number is in host order (numgen).

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// frontendKey is "address . protocol . port", or "protocol . port" for a node
// port.
func frontendKey(k routing.Key) []byte {
	b := make([]byte, 0, 28) // room for a slot
	if !k.AnyNode() {
		b = append(b, k.Addr.AsSlice()...)
	}
	b = append(b, byte(k.Protocol), 0, 0, 0)
	return appendPort(b, k.Port)
}

// slotKey is a frontend's key followed by the slot's number.
func slotKey(frontend []byte, slot int) string {
	return string(binary.NativeEndian.AppendUint32(frontend, uint32(slot)))
}

func backendData(ap netip.AddrPort) string {
	return string(appendPort(append(make([]byte, 0, 20), ap.Addr().AsSlice()...), ap.Port()))
}

// parseFrontendKey is the reverse of frontendKey.
func (f *family) parseFrontendKey(key string, nodePort bool) (routing.Key, bool) {
	k := routing.Key{Addr: f.any}
	if !nodePort {
		if len(key) < f.addrLen {
			return k, false
		}
		k.Addr, _ = netip.AddrFromSlice([]byte(key[:f.addrLen]))
		key = key[f.addrLen:]
	}
	if len(key) != 8 {
		return k, false
	}
	k.Protocol, k.Port = catalog.Protocol(key[0]), binary.BigEndian.Uint16([]byte(key[4:6]))
	return k, k.AnyNode() == nodePort
}

// parseSlot is the reverse of slotKey and backendData.
func (f *family) parseSlot(key, data string, nodePort bool) (k routing.Key, slot int, ap netip.AddrPort, ok bool) {
	ap, ok = f.parseBackend(data)
	if len(key) < 4 || !ok {
		return k, 0, ap, false
	}
	at := len(key) - 4
	k, ok = f.parseFrontendKey(key[:at], nodePort)
	return k, int(binary.NativeEndian.Uint32([]byte(key[at:]))), ap, ok
}

// appendElement writes one element of an element list.
func (s *setSpec) appendElement(a *attrs, e element) {
	a.nest(unix.NFTA_LIST_ELEM, func(a *attrs) {
		if e.end {
			a.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		a.nest(unix.NFTA_SET_ELEM_KEY, func(a *attrs) { a.text(unix.NFTA_DATA_VALUE, e.key) })
		switch {
		case e.data == "":
		case s.dataType == typeVerdict:
			a.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) {
				verdictData(a, binary.BigEndian.Uint32([]byte(e.data)), e.data[4:])
			})
		default:
			a.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) { a.text(unix.NFTA_DATA_VALUE, e.data) })
		}
	})
}

// element is one element of a set or map. Data of a verdict map are the verdict's
// code, as the attribute has it, and the chain's name. Of an interval's two elements the
// second (the first address after it) has end.
type element struct {
	key, data string
	end       bool
}

// parseElement reads one element of a dump.
func parseElement(b []byte) (element, error) {
	data := findOne(b, unix.NFTA_SET_ELEM_DATA)
	e := element{
		key:  string(find(b, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)),
		data: string(findOne(data, unix.NFTA_DATA_VALUE)),
		end:  bigU32(findOne(b, unix.NFTA_SET_ELEM_FLAGS))&unix.NFT_SET_ELEM_INTERVAL_END != 0,
	}
	if e.key == "" {
		return e, fmt.Errorf("set element without a key in %d bytes", len(b))
	}
	if v := findOne(data, unix.NFTA_DATA_VERDICT); v != nil {
		e.data = string(find(v, unix.NFTA_VERDICT_CODE)) + cString(find(v, unix.NFTA_VERDICT_CHAIN))
	}
	return e, nil
}

// describe prints an element for people.
func (f *family) describe(s *setSpec, e element) string {
	if words, ok := f.describeSession(s, e); ok {
		return words
	}
	if words, ok := f.describeAdmitted(s, e); ok {
		return words
	}
	if s.name == endedSet {
		if words, ok := f.describeEnded(e); ok {
			return words
		}
	}
	switch {
	case s.slots:
		if k, slot, ap, ok := f.parseSlot(e.key, e.data, s.nodePort); ok {
			return fmt.Sprintf("%s slot %d: %s", k, slot, ap)
		}
		if k, ok := f.parseFrontendKey(e.key[:max(0, len(e.key)-4)], s.nodePort); ok {
			return fmt.Sprintf("%s slot %d", k, binary.NativeEndian.Uint32([]byte(e.key[len(e.key)-4:])))
		}
	case s.frontends:
		if k, ok := f.parseFrontendKey(e.key, s.nodePort); ok {
			if t, ok := parseCode(e.data); ok {
				return k.String() + ": " + t.chain()
			}
			return k.String()
		}
	case s.dataType == typeVerdict:
		if t, ok := parseCode(e.key); ok {
			return t.chain()
		}
	case len(e.key) >= f.addrLen:
		a, _ := netip.AddrFromSlice([]byte(e.key[:f.addrLen]))
		return a.String()
	}
	return hex.EncodeToString([]byte(e.key))
}
