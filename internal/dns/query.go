package dns

import (
	"encoding/binary"
)

// Numbers of RFC 1035 4.1.1, RFC 6891 and the IANA DNS parameters.
const (
	headerSize = 12

	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4

	opcodeMask = 0xF << 11

	rcodeOK       = 0
	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNXDomain = 3
	rcodeNotImp   = 4
	rcodeRefused  = 5
	rcodeBadVers  = 16

	classIN = 1

	typeCNAME = 5
	typeMX    = 15
	typeOPT   = 41
	typeHTTPS = 65
	typeIXFR  = 251
	typeAXFR  = 252
	typeANY   = 255

	optSize = 11
)

const (
	// minUDP is what every client can take (RFC 1035 4.2.1).
	minUDP = 512
	// maxUDP bounds what a client can ask for: our clients are on this node's own
	// links, where fragments arrive, but nobody needs 64 KiB by UDP.
	maxUDP = 4096
	// ourUDP is the size we announce (DNS flag day 2020: never fragmented).
	ourUDP = 1232
	maxTCP = 65535
	// maxNameSize is RFC 1035 2.3.4.
	maxNameSize = 255
)

// query is what a request asks, read from its bytes without allocation.
type query struct {
	id    uint16
	flags uint16

	name    [maxNameSize]byte // lower case, wire form
	nameLen int
	typ     uint16
	class   uint16
	end     int // where the question ends in the message; 0: it couldn't be read

	edns    bool
	version uint8
	do      bool
	size    int // the largest answer that the client takes by UDP

	// What Server.find and those behind it say.
	found  []byte // the name that the search path led to, in buffer
	buffer [maxNameSize]byte
	source source
}

// verdict says what becomes of a message.
type verdict uint8

const (
	accept verdict = iota
	drop           // it deserves no answer
	formErr
	notImp
)

func (q *query) qname() []byte { return q.name[:q.nameLen] }

// parse reads a request. Whatever isn't exactly one question with at most an OPT
// and a signature behind it is refused, as CoreDNS does: a header that claims
// more is an attack or a mistake.
func (q *query) parse(msg []byte) verdict {
	q.end, q.edns, q.do, q.version, q.size = 0, false, false, 0, minUDP
	q.typ, q.source = 0, fromNowhere
	if len(msg) < headerSize {
		return drop
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.flags = binary.BigEndian.Uint16(msg[2:])
	if q.flags&flagQR != 0 {
		return drop // an answer to an answer would be a loop
	}
	if q.flags&opcodeMask != 0 {
		return notImp
	}
	var counts [4]uint16
	for i := range counts {
		counts[i] = binary.BigEndian.Uint16(msg[4+2*i:])
	}
	// IXFR carries an SOA in the authority section (RFC 1995 3).
	if counts[0] != 1 || counts[1] > 0 || counts[2] > 1 || counts[3] > 2 {
		return formErr
	}
	at, ok := q.readQuestion(msg)
	if !ok {
		return formErr
	}
	q.end = at
	for range counts[2] {
		if _, at, ok = readRecord(msg, at); !ok {
			return formErr
		}
	}
	for range counts[3] {
		var r record
		if r, at, ok = readRecord(msg, at); !ok || r.typ == typeOPT && !q.readOPT(r) {
			return formErr
		}
	}
	return accept
}

// readQuestion copies the name in lower case. A compressed name can't be: there
// is nothing before the question that it could point to.
func (q *query) readQuestion(msg []byte) (end int, ok bool) {
	at := headerSize
	q.nameLen = 0
	for {
		if at >= len(msg) {
			return 0, false
		}
		n := int(msg[at])
		if n > 63 || at+1+n > len(msg) || q.nameLen+1+n > maxNameSize {
			return 0, false
		}
		q.name[q.nameLen] = byte(n)
		for i, c := range msg[at+1 : at+1+n] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.name[q.nameLen+1+i] = c
		}
		q.nameLen += 1 + n
		at += 1 + n
		if n == 0 {
			break
		}
	}
	if at+4 > len(msg) {
		return 0, false
	}
	q.typ = binary.BigEndian.Uint16(msg[at:])
	q.class = binary.BigEndian.Uint16(msg[at+2:])
	return at + 4, true
}

// record is the fixed part of a resource record.
type record struct {
	root  bool // its owner is the root
	typ   uint16
	class uint16
	ttl   uint32
}

func readRecord(msg []byte, at int) (r record, end int, ok bool) {
	start := at
	for {
		if at >= len(msg) {
			return r, 0, false
		}
		n := int(msg[at])
		if n >= 0xC0 { // a pointer ends a name
			at += 2
			break
		}
		if n > 63 {
			return r, 0, false
		}
		at += 1 + n
		if n == 0 {
			break
		}
	}
	if at+10 > len(msg) {
		return r, 0, false
	}
	r = record{
		root:  at == start+1,
		typ:   binary.BigEndian.Uint16(msg[at:]),
		class: binary.BigEndian.Uint16(msg[at+2:]),
		ttl:   binary.BigEndian.Uint32(msg[at+4:]),
	}
	end = at + 10 + int(binary.BigEndian.Uint16(msg[at+8:]))
	return r, end, end <= len(msg)
}

// readOPT takes what EDNS says (RFC 6891 6.1). A second OPT is an error, and so
// is one that isn't the root's.
func (q *query) readOPT(r record) bool {
	if q.edns || !r.root {
		return false
	}
	q.edns = true
	q.version = uint8(r.ttl >> 16)
	q.do = r.ttl&(1<<15) != 0
	q.size = min(max(int(r.class), minUDP), maxUDP)
	return true
}

// begin writes the head of the answer and the question as the client wrote it,
// letter case included (draft-vixie-dnsext-dns0x20).
func (q *query) begin(dst, msg []byte) []byte {
	question := uint16(1)
	if q.end == 0 {
		question = 0
	}
	dst = binary.BigEndian.AppendUint16(dst, q.id)
	dst = binary.BigEndian.AppendUint16(dst, flagQR|q.flags&(opcodeMask|flagRD|flagCD)|flagRA)
	dst = binary.BigEndian.AppendUint16(dst, question)
	dst = append(dst, 0, 0, 0, 0, 0, 0)
	if q.end > 0 {
		dst = append(dst, msg[headerSize:q.end]...)
	}
	return dst
}

// finish puts the OPT record behind an answer when the client sent one, and the
// code, flags and counts into its head.
func (q *query) finish(dst []byte, rcode, flags uint16, answers, authorities, extras uint16) []byte {
	if q.edns {
		extras++
		do := byte(0)
		if q.do {
			do = 1 << 7 // RFC 3225 3: copied
		}
		dst = append(dst, 0, 0, typeOPT, ourUDP>>8, ourUDP&0xFF, byte(rcode>>4), 0, do, 0, 0, 0)
	}
	head := binary.BigEndian.Uint16(dst[2:]) | flags | rcode&0xF
	binary.BigEndian.PutUint16(dst[2:], head)
	binary.BigEndian.PutUint16(dst[6:], answers)
	binary.BigEndian.PutUint16(dst[8:], authorities)
	binary.BigEndian.PutUint16(dst[10:], extras)
	return dst
}

// room is how long an answer may be before the OPT record.
func (q *query) room(tcp bool) int {
	limit := q.size
	if tcp {
		limit = maxTCP
	}
	if q.edns {
		limit -= optSize
	}
	return limit
}
