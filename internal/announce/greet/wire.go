package greet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"portico.dev/portico/internal/core/election"
)

// A datagram, numbers with the highest byte first:
//
//	magic     4  "PGR1"
//	sender       its name: one byte of length, the text
//	run       8  a random number of the sender's process
//	sequence  8  grows with each datagram of the run
//	echo     16  run and sequence of the receiver that the sender heard last; or zeros
//	flags     1
//	interval  2  milliseconds between the sender's greetings
//	late      2  milliseconds that its thread came late at most, of late
//	version   8  of the sender's claims
//	has       8  the version of the receiver's claims that the sender has; or zero
//	links     1  how many; each: one byte of length, the name, 6 bytes of hardware address
//	part      2  place of this part of the claims, 0xffff: none is here
//	parts     2  how many parts the claims have
//	claims       up to the HMAC; each: flags 1, address 4 or 16, uvarints of term,
//	             milliseconds taken, Unix time of the take-over
//	HMAC     16  the first half of HMAC-SHA256 over all before and the receiver's name
const (
	magic = "PGR1"

	flagReady   = 1 << 0
	flagLeaving = 1 << 1
	flagAsks    = 1 << 2 // answer at once

	claimIPv6   = 1 << 0
	claimYields = 1 << 1

	noPart  = 0xffff
	macSize = sha256.Size / 2 // RFC 2104 section 5
	// maxSize is what passes any link unfragmented (RFC 8200 section 5: 1280, less
	// headers of IPv6 and UDP).
	maxSize = 1280 - 40 - 8
	// claimsRoom is for claims in one datagram: the rest is for two names of the longest
	// kind and the links.
	claimsRoom = 540
	// maxLinks fit beside them.
	maxLinks = 16
	// maxTerm leaves room to count on.
	maxTerm = 1 << 62
	// maxParts bounds what a peer can have us keep.
	maxParts = 2048
)

// Claim is a node's word that it answers for an address.
type Claim struct {
	Address netip.Addr
	Term    uint64
	Yields  bool
	// Took is the time from the last sign of the former holder to the first announcement;
	// Since is when that was. Both are for people only.
	Took  time.Duration
	Since time.Time
}

// Of makes what election compares.
func (c Claim) Of(node string) election.Claim {
	return election.Claim{Node: node, Term: c.Term, Yields: c.Yields}
}

// Link is a link that a node announces on.
type Link struct {
	Name string
	MAC  [6]byte
}

// Word is what a node says of itself.
type Word struct {
	// Ready: it knows the API's objects and may be elected.
	Ready   bool
	Leaving bool // its agent is about to end
	Links   []Link
	Claims  []Claim
}

// message is a datagram in parts.
type message struct {
	sender            string
	run, sequence     uint64
	echoRun, echoSeq  uint64
	flags             byte
	interval, late    time.Duration
	version, has      uint64
	links             []Link
	part, parts       uint16
	claims            []byte // as encoded
	signed, signature []byte // of a received one
}

var errMalformed = errors.New("malformed")

// encode makes the datagram for a receiver.
func (m *message) encode(key []byte, receiver string) []byte {
	b := append(make([]byte, 0, maxSize), magic...)
	b = append(append(b, byte(len(m.sender))), m.sender...)
	for _, n := range []uint64{m.run, m.sequence, m.echoRun, m.echoSeq} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, m.flags)
	b = binary.BigEndian.AppendUint16(b, millis(m.interval))
	b = binary.BigEndian.AppendUint16(b, millis(m.late))
	b = binary.BigEndian.AppendUint64(b, m.version)
	b = binary.BigEndian.AppendUint64(b, m.has)
	links := m.links[:min(len(m.links), maxLinks)]
	b = append(b, byte(len(links)))
	for _, l := range links {
		b = append(append(append(b, byte(len(l.Name))), l.Name...), l.MAC[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, m.part)
	b = binary.BigEndian.AppendUint16(b, m.parts)
	b = append(b, m.claims...)
	return append(b, sign(key, b, receiver)...)
}

func millis(d time.Duration) uint16 { return uint16(min(d.Milliseconds(), 0xffff)) }

func sign(key, text []byte, receiver string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(text)
	h.Write([]byte(receiver))
	return h.Sum(nil)[:macSize]
}

// signedBy tells whether one of the keys signed it for receiver.
func (m *message) signedBy(keys [][]byte, receiver string) bool {
	for _, k := range keys {
		if hmac.Equal(m.signature, sign(k, m.signed, receiver)) {
			return true
		}
	}
	return false
}

// decode takes a datagram apart; nothing in it is trusted yet. What it returns points
// into b.
func decode(b []byte) (*message, error) {
	if len(b) < len(magic)+macSize || len(b) > maxSize || string(b[:len(magic)]) != magic {
		return nil, errMalformed
	}
	m := &message{signed: b[:len(b)-macSize], signature: b[len(b)-macSize:]}
	r := reader{b: m.signed[len(magic):]}
	m.sender = string(r.text())
	for _, n := range []*uint64{&m.run, &m.sequence, &m.echoRun, &m.echoSeq} {
		*n = r.number(8)
	}
	m.flags = byte(r.number(1))
	m.interval = time.Duration(r.number(2)) * time.Millisecond
	m.late = time.Duration(r.number(2)) * time.Millisecond
	m.version, m.has = r.number(8), r.number(8)
	count := int(r.number(1))
	if count > maxLinks {
		return nil, errMalformed
	}
	for range count {
		l := Link{Name: string(r.text())}
		copy(l.MAC[:], r.take(len(l.MAC)))
		m.links = append(m.links, l)
	}
	m.part, m.parts = uint16(r.number(2)), uint16(r.number(2))
	m.claims = r.b
	if r.failed || m.sender == "" || m.run == 0 || m.part != noPart && (m.part >= m.parts || m.parts > maxParts) {
		return nil, errMalformed
	}
	return m, nil
}

// reader takes fields from a text; after the first that isn't there all are zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || len(r.b) < n {
		r.failed = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) text() []byte { return r.take(int(r.number(1))) }

func (r *reader) number(size int) (n uint64) {
	for _, x := range r.take(size) {
		n = n<<8 | uint64(x)
	}
	return n
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

// encodeClaims gives the claims in parts that fit into a datagram each; one empty part
// where there are none.
func encodeClaims(claims []Claim) [][]byte {
	parts := [][]byte{nil}
	for _, c := range claims {
		flags := byte(0)
		if c.Address.Is6() {
			flags |= claimIPv6
		}
		if c.Yields {
			flags |= claimYields
		}
		one := append([]byte{flags}, c.Address.AsSlice()...)
		one = binary.AppendUvarint(one, c.Term)
		one = binary.AppendUvarint(one, uint64(max(c.Took.Milliseconds(), 0)))
		one = binary.AppendUvarint(one, uint64(max(c.Since.Unix(), 0)))
		last := &parts[len(parts)-1]
		if len(*last)+len(one) > claimsRoom {
			parts = append(parts, one)
			continue
		}
		*last = append(*last, one...)
	}
	return parts
}

func decodeClaims(parts [][]byte) ([]Claim, error) {
	var out []Claim
	for _, p := range parts {
		r := reader{b: p}
		for len(r.b) > 0 {
			flags := byte(r.number(1))
			c := Claim{Yields: flags&claimYields != 0}
			if flags&claimIPv6 != 0 {
				c.Address, _ = netip.AddrFromSlice(r.take(16))
			} else {
				c.Address, _ = netip.AddrFromSlice(r.take(4))
			}
			c.Term = r.uvarint()
			c.Took = time.Duration(min(r.uvarint(), uint64(time.Hour.Milliseconds()))) * time.Millisecond
			c.Since = time.Unix(int64(min(r.uvarint(), 1<<40)), 0)
			if r.failed || !c.Address.IsValid() || c.Term > maxTerm {
				return nil, errMalformed
			}
			out = append(out, c)
		}
	}
	return out, nil
}
