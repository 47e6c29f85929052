package records

import (
	"encoding/binary"
	"net/netip"
)

// Table is the records of the whole zone and its reverse zones at one moment.
// It never changes; any number of goroutines may read it.
type Table struct {
	names    trie
	zone     Name
	pods     Name // pod.ZONE
	machines Name // vm.ZONE
	podMode  PodMode
	// podsKnown: somebody told the pods.
	podsKnown bool
	size      int // names
	// anyNamespace: nobody told the namespaces, so pod names are answered in all.
	anyNamespace bool
	reverse      []netip.Prefix
	ttl          uint32
	soa          [apexes]soa
}

// The SOA records that a Table has: what goes with NODATA and NXDOMAIN.
const (
	apexZone = iota
	apexARPA4
	apexARPA6
	apexOwn // a name of Own is a zone of its own
	apexes
)

// Result is what a Table knows of a name.
type Result struct {
	// Ours: the name lies in the zone, or in the reverse zone of our ranges.
	// Nobody else is to be asked for it.
	Ours bool
	// Node is what the name answers; empty when it doesn't exist or is a Pod.
	Node Node
	// Pod is the address that a pod name spells; it exists without a Node.
	Pod netip.Addr
	// Unknown: whether the name exists depends on pods, and nobody told them yet.
	Unknown bool
	// Exists: NODATA rather than NXDOMAIN for types that aren't there.
	Exists bool

	apex   uint8 // index of the SOA
	apexAt uint8 // where the apex begins in the name
}

// IsZone reports whether the name is that of the zone itself, which holds the SOA.
func (r Result) IsZone() bool { return r.Ours && r.apex == apexZone && r.apexAt == 0 }

// Find looks up a name in wire form and lower case, with its final empty label.
func (t *Table) Find(name []byte) Result {
	if at := suffixAt(name, t.zone); at >= 0 {
		return t.findOurs(name, at)
	}
	if at := suffixAt(name, arpa4); at >= 0 {
		return t.findReverse(name, apexARPA4, at)
	}
	if at := suffixAt(name, arpa6); at >= 0 {
		return t.findReverse(name, apexARPA6, at)
	}
	if node, found := t.names.find(name); found {
		return Result{Ours: true, Node: node, Exists: true, apex: apexOwn}
	}
	return Result{}
}

func (t *Table) findOurs(name []byte, at int) Result {
	r := Result{Ours: true, apexAt: uint8(at)}
	if r.Node, r.Exists = t.names.find(name); r.Exists {
		return r
	}
	if t.podMode == PodsBySpelling {
		t.findPod(name, &r)
	}
	r.Unknown = !t.podsKnown && (suffixAt(name, t.machines) > 0 || t.podMode == PodsExisting && suffixAt(name, t.pods) > 0)
	return r
}

func (t *Table) findReverse(name []byte, apex uint8, at int) Result {
	p, ok := reversePrefix(name)
	if !ok {
		return Result{}
	}
	r := Result{apex: apex, apexAt: uint8(at)}
	r.Ours, r.Exists = t.inRanges(p)
	if p.IsSingleIP() {
		var key [addrKeySize]byte
		if node, found := t.names.find(appendAddrKey(key[:0], p.Addr())); found { // also outside of the ranges: endpoints may be anywhere
			r.Ours, r.Exists, r.Node = true, true, node
		}
	}
	return r
}

// findPod knows ADDRESS.NAMESPACE.pod.ZONE and the names above it.
func (t *Table) findPod(name []byte, r *Result) {
	at := suffixAt(name, t.pods)
	if at <= 0 {
		return
	}
	first := 1 + int(name[0])
	above := name
	if first < at {
		above = name[first:]
		if first+1+int(above[0]) != at {
			return // deeper than a pod name
		}
	}
	if !t.anyNamespace {
		if _, exists := t.names.find(above); !exists {
			return
		}
	}
	if first == at {
		r.Exists = true // the namespace
		return
	}
	if a, ok := undashed(name[1:first]); ok {
		r.Pod, r.Exists = a, true
	}
}

// inRanges says whether a reverse name's addresses lie in one of our ranges. A name that is
// shorter than an address' exists: there could be names below it, and a resolver
// that walks down label by label (RFC 9156) must not be turned away half-way.
func (t *Table) inRanges(p netip.Prefix) (ours, exists bool) {
	for _, r := range t.reverse {
		if r.Addr().BitLen() == p.Addr().BitLen() && r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return true, !p.IsSingleIP()
		}
	}
	return false, false
}

// AppendPod writes the record of a pod name; 0 when it has none of that type.
func (t *Table) AppendPod(dst []byte, a netip.Addr, typ uint16) ([]byte, uint16) {
	if addrType(a) != typ && typ != TypeANY {
		return dst, 0
	}
	dst = binary.BigEndian.AppendUint16(dst, pointer|headerSize)
	dst = binary.BigEndian.AppendUint16(dst, addrType(a))
	dst = binary.BigEndian.AppendUint16(dst, classIN)
	dst = binary.BigEndian.AppendUint32(dst, t.ttl)
	if a.Is4() {
		raw := a.As4()
		return append(append(dst, 0, 4), raw[:]...), 1
	}
	raw := a.As16()
	return append(append(dst, 0, 16), raw[:]...), 1
}

// AppendSOA writes the SOA of the zone a Result lies in: what goes with NODATA
// and NXDOMAIN (RFC 2308 3). nameAt is where the Result's name stands in the
// message.
func (t *Table) AppendSOA(dst []byte, r Result, nameAt int) []byte {
	s := t.soa[r.apex]
	dst = binary.BigEndian.AppendUint16(dst, pointer|uint16(nameAt+int(r.apexAt)))
	return append(dst, s...)
}

// Size is how many names there are, those without records of their own too.
func (t *Table) Size() int { return t.size }

// PodsKnown reports whether somebody told which pods there are.
func (t *Table) PodsKnown() bool { return t.podsKnown }

// TTL is that of every record, in seconds.
func (t *Table) TTL() uint32 { return t.ttl }

// soa is an SOA record without its owner.
type soa []byte

// newSOA writes the times that upstream's server uses; only the last, how long a
// "no" may be remembered, matters to anybody here: nobody transfers the zone.
func newSOA(server, mail Name, serial, ttl uint32) soa {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, TypeSOA)
	b = binary.BigEndian.AppendUint16(b, classIN)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(server)+len(mail)+5*4))
	b = append(b, server...)
	b = append(b, mail...)
	for _, v := range []uint32{serial, 7200, 1800, 86400, ttl} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
