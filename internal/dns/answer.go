package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns/forward"
)

// next says what is to be done with a query after answer.
type next uint8

const (
	send  next = iota // the reply is ready
	quiet             // nobody is answered
	ask               // upstream must be asked; the reply isn't written
)

// answer replies to one message behind dst[:0] without waiting for anything. It
// allocates nothing: dst is to have room for the largest message.
func (s *Server) answer(dst, msg []byte, client netip.Addr, tcp bool, q *query) ([]byte, next) {
	dst = dst[:0]
	v := q.parse(msg)
	if v == drop {
		return dst, quiet
	}
	allowed := s.allowed(client)
	switch {
	case !allowed && v != accept:
		return dst, quiet
	case v == formErr:
		return s.fail(dst, msg, q, rcodeFormErr)
	case v == notImp:
		return s.fail(dst, msg, q, rcodeNotImp)
	case q.edns && q.version != 0:
		return s.fail(dst, msg, q, rcodeBadVers)
	case !allowed, q.class != classIN, q.typ == typeAXFR, q.typ == typeIXFR:
		return s.fail(dst, msg, q, rcodeRefused)
	}
	st := s.state.Load()
	r := s.find(st, q, client)
	switch {
	case !r.Ours:
		return s.remembered(dst, msg, tcp, q)
	case !st.synced, r.Unknown:
		return s.fail(dst, msg, q, rcodeServFail)
	}
	q.source = fromCluster
	return s.fromTable(dst, msg, tcp, q, st.table, r)
}

// find looks up the name that is asked for; when it isn't ours, in the client's search
// path. q.found is the name by which the Result was found there, else empty.
func (s *Server) find(st *state, q *query, client netip.Addr) records.Result {
	q.found = q.found[:0]
	r := st.table.Find(q.qname())
	if r.Ours || !s.cfg.Search {
		return r
	}
	if !st.synced || !st.table.PodsKnown() {
		// A name of one label may be a Service's and is nobody's outside. The others
		// are more likely to be whole, and outside works from the start.
		first := 1 + int(q.name[0])
		return records.Result{Ours: first > 1 && first == q.nameLen-1, Unknown: true}
	}
	if whole, searched, ok := st.table.Search(q.buffer[:0], q.qname(), client); ok {
		q.found = whole
		return searched
	}
	return r
}

// fail replies with a code alone.
func (s *Server) fail(dst, msg []byte, q *query, rcode uint16) ([]byte, next) {
	return q.finish(q.begin(dst[:0], msg), rcode, 0, 0, 0, 0), send
}

// maxAliases bounds a chain of CNAMEs; a longer one is a loop.
const maxAliases = 8

// fromTable writes what the zone says. CNAMEs are followed inside of the zone; a
// target outside of it must be asked for.
func (s *Server) fromTable(dst, msg []byte, tcp bool, q *query, t *records.Table, r records.Result) ([]byte, next) {
	dst = q.begin(dst, msg)
	start, limit := len(dst), q.room(tcp)
	answers := uint16(0)
	nameAt := headerSize // where the name that r is about stands in dst
	if len(q.found) > 0 {
		nameAt = len(dst) + recordHead
		if dst = t.AppendAlias(dst, q.found); len(dst) > limit {
			return s.truncated(dst[:start], q)
		}
		answers++
		if q.typ == typeCNAME {
			return q.finish(dst, rcodeOK, flagAA, answers, 0, 0), send
		}
	}
	for {
		alias, ok := r.Node.Set(typeCNAME)
		if !ok || q.typ == typeCNAME || q.typ == typeANY {
			break
		}
		recordAt := len(dst)
		var n uint16
		if dst, n = alias.Append(dst, 0, limit); n == 0 {
			return s.truncated(dst[:start], q)
		}
		setOwner(dst[recordAt:], nameAt)
		nameAt = recordAt + recordHead
		if answers++; answers > maxAliases {
			return s.fail(dst, msg, q, rcodeServFail)
		}
		if r = t.Find(dst[nameAt:]); !r.Ours {
			return dst, ask
		}
	}
	dataAt := len(dst)
	dst, n, extras, whole := s.data(dst, limit, q, t, r, answers == 0)
	answers += n
	if answers > 0 && nameAt != headerSize {
		records.EachAnswer(dst[dataAt:], func(record []byte) { setOwner(record, nameAt) })
	}
	switch {
	case !whole:
		return q.finish(dst, rcodeOK, flagAA|flagTC, answers, 0, 0), send
	case n > 0:
		return q.finish(dst, rcodeOK, flagAA, answers, 0, extras), send
	}
	if dst = t.AppendSOA(dst, r, nameAt); len(dst) > limit {
		return s.truncated(dst[:start], q)
	}
	rcode := uint16(rcodeOK)
	if !r.Exists {
		rcode = rcodeNXDomain // of the last name in the chain (RFC 6604 3)
	}
	return q.finish(dst, rcode, flagAA, answers, 1, 0), send
}

// data writes the records of the asked type: n answers, and additional ones when
// they are wanted and fit. whole is false when answers had to be left out.
func (s *Server) data(dst []byte, limit int, q *query, t *records.Table, r records.Result, glue bool) (_ []byte, n, extras uint16, whole bool) {
	switch {
	case r.Pod.IsValid():
		dst, n = t.AppendPod(dst, r.Pod, q.typ)
		return dst, n, 0, len(dst) <= limit
	case r.IsZone() && q.typ == records.TypeSOA:
		return t.AppendSOA(dst, r, headerSize), 1, 0, true
	}
	set, ok := r.Node.Set(q.typ)
	if !ok {
		return dst, 0, 0, true
	}
	// Clients take the first address: each answer begins with another one.
	dst, n = set.Append(dst, rand.Uint32(), limit)
	if n == set.Answers && glue {
		dst, extras = set.AppendExtras(dst, limit)
	}
	return dst, n, extras, n == set.Answers
}

// recordHead is the length of a record before its data, where the owner is a
// pointer.
const recordHead = 12

// setOwner points a record's owner to a name in the message.
func setOwner(record []byte, nameAt int) {
	binary.BigEndian.PutUint16(record, 0xC000|uint16(nameAt))
}

// truncated replies that the answer is too long: ask by TCP. dst ends with the
// question.
func (s *Server) truncated(dst []byte, q *query) ([]byte, next) {
	return q.finish(dst, rcodeOK, flagTC, 0, 0, 0), send
}

// remembered answers a foreign name from the cache.
func (s *Server) remembered(dst, msg []byte, tcp bool, q *query) ([]byte, next) {
	now := s.cfg.Now()
	a := s.forward.Cached(s.question(q, q.qname()), now)
	if a == nil {
		return dst, ask
	}
	q.source = fromCache
	return s.foreign(dst, msg, tcp, q, a, now)
}

func (s *Server) question(q *query, name []byte) forward.Question {
	return forward.Question{Name: name, Type: q.typ, DO: q.do, CD: q.flags&flagCD != 0}
}

// foreign writes upstream's answer.
func (s *Server) foreign(dst, msg []byte, tcp bool, q *query, a *forward.Answer, now time.Time) ([]byte, next) {
	dst = q.begin(dst[:0], msg)
	if a.Size() > q.room(tcp) {
		return s.truncated(dst, q)
	}
	dst = a.Append(dst, now)
	flags := uint16(0)
	if a.Authenticated() && (q.do || q.flags&flagAD != 0) { // RFC 6840 5.8
		flags = flagAD
	}
	answers, authorities, extras := a.Counts()
	return q.finish(dst, a.Rcode(), flags, answers, authorities, extras), send
}
