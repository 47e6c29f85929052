package forward

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	maxMessage = 65535
)

// Answer is what upstream said, without its OPT record. It never changes.
type Answer struct {
	wire    []byte   // a whole message
	body    int      // where its question ends
	ttls    []uint16 // where its TTLs stand
	stored  time.Time
	expires time.Time // not after stored: not to be remembered
	useful  time.Time // it may be given until then when there is nothing better
}

// newAnswer packs a message anew: whatever upstream's encoding was, ours is
// valid. Its question must be the one that was asked, so that the answer can
// stand behind the question of any client who asks the same.
func newAnswer(m *dns.Msg, asked dns.Question, now time.Time) (*Answer, error) {
	m.Question = []dns.Question{asked}
	m.Compress = true
	extra := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			extra = append(extra, rr)
		}
	}
	m.Extra = extra
	if m.Rcode > 0xF { // means something between upstream and us only
		m.Rcode = dns.RcodeServerFailure
	}
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack the answer to %s: %w", asked.Name, err)
	}
	if len(wire) > maxMessage {
		return nil, fmt.Errorf("pack the answer to %s: %d bytes are too many", asked.Name, len(wire))
	}
	// Some nonsense survives being read and is written as something else: a name
	// in empty record data becomes no bytes at all. Nobody gets to see that.
	if err := new(dns.Msg).Unpack(wire); err != nil {
		return nil, fmt.Errorf("read back the answer to %s: %w", asked.Name, err)
	}
	a := &Answer{wire: wire, stored: now, expires: now.Add(lifetime(m, asked.Qtype))}
	a.useful = a.expires.Add(staleFor)
	a.index()
	return a, nil
}

// failure is an answer for a question that nobody answers.
func failure(q Question, now time.Time) (*Answer, error) {
	name, _, err := dns.UnpackDomainName(q.Name, 0)
	if err != nil {
		return nil, fmt.Errorf("read the name: %w", err)
	}
	asked := dns.Question{Name: name, Qtype: q.Type, Qclass: dns.ClassINET}
	return newAnswer(&dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: dns.RcodeServerFailure}}, asked, now)
}

// good reports whether the answer says something of the name rather than of a server.
func (a *Answer) good() bool {
	return a.Rcode() == dns.RcodeSuccess || a.Rcode() == dns.RcodeNameError
}

// again is an old answer that is given once more, for a short time.
func (a *Answer) again(now time.Time) *Answer {
	out := &Answer{wire: slices.Clone(a.wire), body: a.body, ttls: a.ttls, stored: now, expires: now.Add(staleTTL), useful: a.useful}
	for _, at := range out.ttls {
		binary.BigEndian.PutUint32(out.wire[at:], uint32(staleTTL/time.Second))
	}
	return out
}

// index finds the question's end and the TTLs. The message was packed by us, so
// it can be walked without looking out for lies.
func (a *Answer) index() {
	at := skipName(a.wire, headerSize) + 4
	a.body = at
	records := 0
	for i := 6; i < headerSize; i += 2 {
		records += int(binary.BigEndian.Uint16(a.wire[i:]))
	}
	a.ttls = make([]uint16, 0, records)
	for range records {
		at = skipName(a.wire, at)
		a.ttls = append(a.ttls, uint16(at+4))
		at += 10 + int(binary.BigEndian.Uint16(a.wire[at+8:]))
	}
}

func skipName(b []byte, at int) int {
	for b[at] != 0 {
		if b[at] >= 0xC0 {
			return at + 2
		}
		at += 1 + int(b[at])
	}
	return at + 1
}

// Rcode is the four bits that say how it went.
func (a *Answer) Rcode() uint16 { return uint16(a.wire[3] & 0xF) }

// Authenticated is upstream's AD flag.
func (a *Answer) Authenticated() bool { return a.wire[3]&0x20 != 0 }

// Counts are the records in the answer, authority and additional sections.
func (a *Answer) Counts() (answers, authorities, extras uint16) {
	return binary.BigEndian.Uint16(a.wire[6:]), binary.BigEndian.Uint16(a.wire[8:]), binary.BigEndian.Uint16(a.wire[10:])
}

// Size is the length of a message with this answer, before any OPT record.
func (a *Answer) Size() int { return len(a.wire) }

// Append puts the three sections behind dst, which must be a message's head and
// question and nothing before them, and takes the time passed off the TTLs.
func (a *Answer) Append(dst []byte, now time.Time) []byte {
	dst = append(dst, a.wire[a.body:]...)
	age := uint32(max(0, now.Sub(a.stored)/time.Second))
	for _, at := range a.ttls {
		ttl := binary.BigEndian.Uint32(dst[at:])
		binary.BigEndian.PutUint32(dst[at:], ttl-min(ttl, age))
	}
	return dst
}

// Bounds for what is remembered. The longest are CoreDNS' for yes and no; a
// failure is kept for a second so that a broken domain isn't asked for in a
// tight loop (RFC 9520 3.2).
const (
	longestYes = time.Hour
	longestNo  = 30 * time.Minute
	failureTTL = time.Second
)

// lifetime is how long an answer may be remembered, 0 for not at all.
func lifetime(m *dns.Msg, qtype uint16) time.Duration {
	switch m.Rcode {
	case dns.RcodeServerFailure:
		return failureTTL
	case dns.RcodeSuccess, dns.RcodeNameError:
	default:
		return 0
	}
	shortest := uint32(1<<32 - 1)
	found := false
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			shortest = min(shortest, rr.Header().Ttl)
		}
	}
	for _, rr := range m.Answer {
		found = found || rr.Header().Rrtype == qtype || qtype == dns.TypeANY
	}
	if m.Rcode == dns.RcodeSuccess && found {
		return min(longestYes, time.Duration(shortest)*time.Second)
	}
	// A "no" without an SOA has no lifetime of its own (RFC 2308 5).
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(longestNo, time.Duration(min(shortest, soa.Minttl))*time.Second)
		}
	}
	return 0
}
