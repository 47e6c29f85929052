package records

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// The record types a zone holds (IANA DNS parameters).
const (
	TypeA     uint16 = 1
	TypeNS    uint16 = 2
	TypeCNAME uint16 = 5
	TypeSOA   uint16 = 6
	TypePTR   uint16 = 12
	TypeTXT   uint16 = 16
	TypeAAAA  uint16 = 28
	TypeSRV   uint16 = 33
	TypeANY   uint16 = 255

	// typeOutranked is nobody's (RFC 6895 3.1, private use) and never leaves a Table:
	// the names that an address has besides those it answers with.
	typeOutranked uint16 = 65280
)

const (
	classIN = 1
	// headerSize is the fixed head of a message: the question name follows it.
	headerSize = 12
	// pointer marks a compressed name (RFC 1035 4.1.4).
	pointer = 0xC000
	// recordHead is what stands before the data of a record whose owner is a
	// pointer: owner, type, class, TTL, length.
	recordHead = 2 + 2 + 2 + 4 + 2
)

// Node is all that one name answers: its Sets one behind the other. The empty one
// exists and has no data.
type Node string

// Set is the records of one name and type in wire form. The owner of each is a
// pointer to the question at offset 12, and additional records point into it
// too: they are right behind any question for the name, in whatever case it was
// written, and in any order.
type Set struct {
	Type    uint16
	Answers uint16 // records in Data before Split
	Extras  uint16 // records after it, for the additional section
	Split   int
	Data    string
}

// setHead is what stands before the data of a Set in a Node: type, answers, extras,
// the split and the length of the data.
const setHead = 2 + 2 + 2 + 4 + 4

func (s *Set) appendTo(n []byte) []byte {
	n = binary.BigEndian.AppendUint16(n, s.Type)
	n = binary.BigEndian.AppendUint16(n, s.Answers)
	n = binary.BigEndian.AppendUint16(n, s.Extras)
	n = binary.BigEndian.AppendUint32(n, uint32(s.Split))
	n = binary.BigEndian.AppendUint32(n, uint32(len(s.Data)))
	return append(n, s.Data...)
}

// first reads the Set at the head of a Node that isn't empty.
func (n Node) first() (s Set, rest Node) {
	s = Set{Type: uint16At(n, 0), Answers: uint16At(n, 2), Extras: uint16At(n, 4), Split: int(uint32At(n, 6))}
	end := setHead + int(uint32At(n, 10))
	s.Data = string(n[setHead:end])
	return s, n[end:]
}

// Set finds the records of a type. ANY gets one set of those there are, as RFC 8482
// 4.1 allows.
func (n Node) Set(typ uint16) (s Set, ok bool) {
	if typ == typeOutranked {
		return s, false
	}
	return n.set(typ)
}

func (n Node) set(typ uint16) (s Set, ok bool) {
	for n != "" {
		if s, n = n.first(); s.Type == typ || typ == TypeANY {
			return s, true
		}
	}
	return Set{}, false
}

func uint16At[T ~string | ~[]byte](b T, at int) uint16 { return uint16(b[at])<<8 | uint16(b[at+1]) }
func uint32At[T ~string | ~[]byte](b T, at int) uint32 {
	return uint32(uint16At(b, at))<<16 | uint32(uint16At(b, at+2))
}

// Append puts the answers behind dst, beginning with the one numbered first and
// going round, as many as fit into limit bytes of dst. It returns how many.
func (s *Set) Append(dst []byte, first uint32, limit int) ([]byte, uint16) {
	answers := s.Data[:s.Split]
	n := int(s.Answers)
	if n == 0 {
		return dst, 0
	}
	start := s.offset(int(first) % n)
	if len(dst)+len(answers) <= limit {
		dst = append(dst, answers[start:]...)
		return append(dst, answers[:start]...), s.Answers
	}
	count := uint16(0)
	for at := start; ; count++ {
		if at == len(answers) {
			at = 0
		}
		size := recordSize(answers[at:])
		if len(dst)+size > limit {
			return dst, count
		}
		dst = append(dst, answers[at:at+size]...)
		at += size
	}
}

// AppendExtras puts the additional records behind dst, if all fit into limit.
func (s *Set) AppendExtras(dst []byte, limit int) ([]byte, uint16) {
	extra := s.Data[s.Split:]
	if len(dst)+len(extra) > limit {
		return dst, 0
	}
	return append(dst, extra...), s.Extras
}

// offset is where an answer begins.
func (s *Set) offset(n int) int {
	switch s.Type {
	case TypeA:
		return n * (recordHead + 4)
	case TypeAAAA:
		return n * (recordHead + 16)
	}
	at := 0
	for range n {
		at += recordSize(s.Data[at:])
	}
	return at
}

// targets reads the names that the answers hold, of a type that has one each.
func (s *Set) targets() (out []Name) {
	for at := 0; at < s.Split; at += recordSize(s.Data[at:]) {
		out = append(out, Name(s.Data[at+recordHead:at+recordSize(s.Data[at:])]))
	}
	return out
}

// Target is the name that the first answer holds.
func (s *Set) Target() Name { return Name(s.Data[recordHead:recordSize(s.Data)]) }

// recordSize is the length of the record at the head of b, whose owner is a
// pointer.
func recordSize[T ~string | ~[]byte](b T) int {
	return recordHead + int(uint16At(b, recordHead-2))
}

// EachAnswer calls f for every answer of b, which Append wrote.
func EachAnswer(b []byte, f func(record []byte)) {
	for len(b) > 0 {
		n := recordSize(b)
		f(b[:n])
		b = b[n:]
	}
}

// encode makes the Node of an Owner.
func encode(o Owner, ttl uint32) Node {
	e := encoder{question: o.Name, ttl: ttl}
	if o.Alias != "" {
		e.begin(TypeCNAME)
		e.name(o.Alias)
		e.finish()
		return Node(e.sets)
	}
	e.addresses(TypeA, o.Addrs)
	e.addresses(TypeAAAA, o.Addrs)
	if len(o.SRV) > 0 {
		for _, r := range o.SRV {
			e.begin(TypeSRV)
			e.data = binary.BigEndian.AppendUint16(e.data, 0) // priority: all the same
			e.data = binary.BigEndian.AppendUint16(e.data, r.Weight)
			e.data = binary.BigEndian.AppendUint16(e.data, r.Port)
			e.name(r.Target) // RFC 2782 forbids compression here
		}
		e.glue(o.SRV)
	}
	if len(o.NS) > 0 {
		for _, r := range o.NS {
			e.begin(TypeNS)
			e.name(r.Target)
		}
		e.glue(o.NS)
	}
	e.names(TypePTR, o.Hosts)
	e.names(typeOutranked, o.outranked)
	if o.Text != "" {
		e.begin(TypeTXT)
		e.data = append(append(e.data, byte(len(o.Text))), o.Text...)
		e.finish()
	}
	return Node(e.sets)
}

// encoder builds the Sets of one name.
type encoder struct {
	question Name
	ttl      uint32
	sets     []byte // a Node

	typ    uint16
	count  int
	record int // offset of the open record's data, 0 when none is open
	data   []byte
}

// begin opens the next record of a set; what is appended to data until the next
// begin or finish is its content.
func (e *encoder) begin(typ uint16) {
	e.close()
	e.typ = typ
	e.head(headerSize|pointer, typ)
	e.count++
}

func (e *encoder) head(owner, typ uint16) {
	e.data = binary.BigEndian.AppendUint16(e.data, owner)
	e.tail(typ)
}

func (e *encoder) tail(typ uint16) {
	e.data = binary.BigEndian.AppendUint16(e.data, typ)
	e.data = binary.BigEndian.AppendUint16(e.data, classIN)
	e.data = binary.BigEndian.AppendUint32(e.data, e.ttl)
	e.data = append(e.data, 0, 0)
	e.record = len(e.data)
}

func (e *encoder) close() {
	if e.record > 0 {
		binary.BigEndian.PutUint16(e.data[e.record-2:], uint16(len(e.data)-e.record))
	}
	e.record = 0
}

func (e *encoder) name(n Name) { e.data = append(e.data, n...) }

// finish ends a set without additional records.
func (e *encoder) finish() { e.glue(nil) }

// glue ends a set and puts the addresses of its targets behind it, each once.
func (e *encoder) glue(targets []SRV) {
	e.close()
	set := Set{Type: e.typ, Answers: uint16(min(e.count, math.MaxUint16)), Split: len(e.data)}
	extras := 0
	seen := map[Name]bool{}
	for _, t := range targets {
		if seen[t.Target] {
			continue
		}
		seen[t.Target] = true
		for _, a := range t.Addrs {
			e.owner(t.Target)
			e.tail(addrType(a))
			e.data = append(e.data, a.AsSlice()...)
			e.close()
			extras++
		}
	}
	if extras > math.MaxUint16 {
		extras, e.data = 0, e.data[:set.Split]
	}
	set.Extras = uint16(extras)
	set.Data = string(e.data)
	e.sets = set.appendTo(e.sets)
	e.data, e.count = e.data[:0], 0
}

// owner writes a name, of which the part that it shares with the question's end
// becomes a pointer there.
func (e *encoder) owner(n Name) {
	for i := 0; n[i] != 0; i += 1 + int(n[i]) {
		if at := suffixAt(e.question, n[i:]); at >= 0 {
			e.data = append(e.data, n[:i]...)
			e.data = binary.BigEndian.AppendUint16(e.data, pointer|uint16(headerSize+at))
			return
		}
	}
	e.name(n)
}

func (e *encoder) addresses(typ uint16, addrs []netip.Addr) {
	found := false
	for _, a := range addrs {
		if addrType(a) == typ && e.count < math.MaxUint16 {
			found = true
			e.begin(typ)
			e.data = append(e.data, a.AsSlice()...)
		}
	}
	if found {
		e.finish()
	}
}

func (e *encoder) names(typ uint16, names []Name) {
	if len(names) == 0 {
		return
	}
	for _, n := range names {
		e.begin(typ)
		e.name(n)
	}
	e.finish()
}

func addrType(a netip.Addr) uint16 {
	if a.Is4() {
		return TypeA
	}
	return TypeAAAA
}
