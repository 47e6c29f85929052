package nftables

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"portico.dev/portico/internal/core/catalog"
)

func udpHeader(src, dst uint16) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst)
	return append(b, 0, 8, 0, 0)
}

func packet4(options int, proto byte, transport []byte) []byte {
	b := make([]byte, 20+options)
	b[0], b[9] = 4<<4|byte(len(b)/4), proto
	copy(b[12:], []byte{192, 0, 2, 9, 10, 96, 0, 20})
	return append(b, transport...)
}

// packet6 has extension headers: numbers, and their lengths in units of eight bytes.
func packet6(transport []byte, proto byte, extensions ...[2]byte) []byte {
	b := make([]byte, 40)
	b[0] = 6 << 4
	copy(b[8:], netip.MustParseAddr("2001:db8::9").AsSlice())
	copy(b[24:], netip.MustParseAddr("fd00:10:96::20").AsSlice())
	next := 6
	for _, e := range extensions {
		b[next] = e[0]
		next = len(b)
		header := make([]byte, 8*int(e[1]))
		if e[0] != 44 {
			header[1] = e[1] - 1
		} else {
			header[1] = 0xff // reserved: whatever it says, eight bytes
		}
		b = append(b, header...)
	}
	b[next] = proto
	return append(b, transport...)
}

func TestParsePacket(t *testing.T) {
	four := record{protocol: catalog.UDP, client: netip.MustParseAddrPort("192.0.2.9:4000"), door: netip.MustParseAddrPort("10.96.0.20:80")}
	six := record{protocol: catalog.UDP, client: netip.MustParseAddrPort("[2001:db8::9]:4000"), door: netip.MustParseAddrPort("[fd00:10:96::20]:80")}
	tcp, sctp := four, six
	tcp.protocol, sctp.protocol = catalog.TCP, catalog.SCTP
	ports := udpHeader(4000, 80)
	for name, c := range map[string]struct {
		packet []byte
		want   record // zero: an error
	}{
		"IPv4":                         {packet4(0, 17, ports), four},
		"IPv4 with options":            {packet4(40, 17, ports), four},
		"IPv4, no more than the ports": {packet4(0, 17, ports[:4]), four},
		"IPv4, half the ports":         {packet4(0, 17, ports[:3]), record{}},
		"IPv4, header cut":             {packet4(0, 17, nil)[:19], record{}},
		"IPv4, length too small":       {append([]byte{4<<4 | 4}, packet4(0, 17, ports)[1:]...), record{}},
		"IPv4, TCP":                    {packet4(0, 6, ports), tcp},
		"IPv4, ICMP":                   {packet4(0, 1, ports), record{}},
		"IPv6":                         {packet6(ports, 17), six},
		"IPv6 with extensions":         {packet6(ports, 17, [2]byte{0, 1}, [2]byte{60, 3}, [2]byte{43, 2}, [2]byte{44, 1}), six},
		"IPv6, SCTP":                   {packet6(ports, 132), sctp},
		"IPv6, extension cut":          {packet6(nil, 17, [2]byte{0, 4})[:60], record{}},
		"IPv6, header cut":             {packet6(nil, 17)[:39], record{}},
		"IPv5":                         {append([]byte{5 << 4}, make([]byte, 60)...), record{}},
		"nothing":                      {nil, record{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parsePacket(c.packet)
			if (err != nil) != (c.want == record{}) || err == nil && got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

// recordMessage is a record as the kernel sends it.
func recordMessage(packet []byte) []byte {
	var a attrs
	a.bytes(1, []byte{8, 0, 1, 0}) // NFULA_PACKET_HDR
	a.bytes(nfulaPayload, packet)
	return appendMessage(nil, 4<<8|nfulnlPacket, 0, 0, 2, recordGroup, a)
}

func TestEachRecord(t *testing.T) {
	good := packet4(0, 17, udpHeader(4000, 80))
	b := append(recordMessage(good), recordMessage(packet4(0, 6, udpHeader(4000, 80)))...)
	var got []catalog.Protocol
	if err := eachRecord(b, func(r record) { got = append(got, r.protocol) }); err != nil || !slices.Equal(got, []catalog.Protocol{catalog.UDP, catalog.TCP}) {
		t.Errorf("got %v, %v", got, err)
	}
	if err := eachRecord(recordMessage(good[:10]), func(record) { t.Error("took half a packet") }); err == nil {
		t.Error("half a packet is no error: its flow would be unknown")
	}
}

func FuzzEachRecord(f *testing.F) {
	for _, p := range [][]byte{packet4(4, 17, udpHeader(1, 2)), packet6(udpHeader(1, 2), 17, [2]byte{0, 2}, [2]byte{44, 1})} {
		f.Add(recordMessage(p))
		f.Add(bytes.Repeat(recordMessage(p), 2))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = eachRecord(b, func(r record) {
			if !r.client.IsValid() || !r.door.IsValid() || r.client.Addr().Is4() != r.door.Addr().Is4() {
				t.Errorf("made %+v of it", r)
			}
			// The index keeps sixteen bytes of an address.
			if r.door.Addr().Is4() || !r.client.Addr().Is4In6() {
				if got := clientOf(r.client).at(r.door); got != r.client {
					t.Errorf("%s became %s", r.client, got)
				}
			}
		})
	})
}
