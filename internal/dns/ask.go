package dns

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/miekg/dns"

	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns/forward"
)

// askUpstream replies to a query of which answer said that upstream must be
// asked. It waits, and it may allocate. The reply is written behind dst[:0].
func (s *Server) askUpstream(ctx context.Context, dst, msg []byte, client netip.Addr, tcp bool, q *query) []byte {
	q.source = fromUpstream
	var reply []byte
	st := s.state.Load()
	if r := s.find(st, q, client); r.Ours {
		reply, _ = s.chase(ctx, dst, msg, tcp, q, st.table)
		return reply
	}
	name, _, err := dns.UnpackDomainName(q.qname(), 0)
	if err != nil || s.forward.IsProbe(name) {
		reply, _ = s.fail(dst, msg, q, rcodeServFail)
		return reply
	}
	a, err := s.forward.Resolve(ctx, s.question(q, q.qname()))
	if err != nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "name outside the cluster not resolved", slog.String("name", name), slog.Any("error", err))
		reply, _ = s.fail(dst, msg, q, rcodeServFail)
		return reply
	}
	reply, _ = s.foreign(dst, msg, tcp, q, a, s.cfg.Now())
	return reply
}

// chase follows an ExternalName out of the zone: the Service's own CNAMEs, then
// what upstream says about the last one's target. Clients' resolvers ask once
// and expect the whole chain (RFC 1034 5.3.1: that is the server's job when
// recursion is desired).
func (s *Server) chase(ctx context.Context, dst, msg []byte, tcp bool, q *query, table *records.Table) ([]byte, next) {
	request := new(dns.Msg)
	if err := request.Unpack(msg); err != nil {
		return s.fail(dst, msg, q, rcodeFormErr)
	}
	reply := new(dns.Msg).SetReply(request)
	reply.Authoritative, reply.RecursionAvailable, reply.Compress = true, true, true
	target, ok := aliases(reply, q, table)
	if !ok {
		return s.fail(dst, msg, q, rcodeServFail)
	}
	if a, err := s.forward.Resolve(ctx, s.question(q, []byte(target))); err == nil {
		s.join(reply, a, target)
	} else {
		// The half that we know is true, but a client that sees no address and no
		// error believes there is none.
		return s.fail(dst, msg, q, rcodeServFail)
	}
	if opt := request.IsEdns0(); opt != nil {
		reply.SetEdns0(ourUDP, opt.Do())
	}
	size := q.size
	if tcp {
		size = maxTCP
	}
	reply.Truncate(size)
	packed, err := reply.PackBuffer(dst[:cap(dst)])
	if err != nil {
		return s.fail(dst, msg, q, rcodeServFail)
	}
	return packed, send
}

// aliases puts the zone's own CNAMEs into the reply, that of the search path first, and
// gives the target of the last. It fails when the records changed meanwhile, and there is
// none any more.
func aliases(reply *dns.Msg, q *query, table *records.Table) (target records.Name, ok bool) {
	owner, name := reply.Question[0].Name, q.qname()
	follow := func(to records.Name) {
		reply.Answer = append(reply.Answer, &dns.CNAME{
			Hdr:    dns.RR_Header{Name: owner, Rrtype: typeCNAME, Class: classIN, Ttl: table.TTL()},
			Target: to.String(),
		})
		target, owner, name = to, to.String(), []byte(to)
	}
	if len(q.found) > 0 {
		follow(records.Name(q.found))
	}
	for len(reply.Answer) <= maxAliases {
		r := table.Find(name)
		if !r.Ours {
			return target, target != ""
		}
		set, ok := r.Node.Set(typeCNAME)
		if !ok {
			return "", false
		}
		follow(set.Target())
	}
	return "", false
}

// join puts upstream's sections behind the CNAMEs.
func (s *Server) join(reply *dns.Msg, a *forward.Answer, target records.Name) {
	head := new(dns.Msg).SetQuestion(target.String(), reply.Question[0].Qtype)
	wire, err := head.Pack()
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	answers, authorities, extras := a.Counts()
	wire = a.Append(wire, s.cfg.Now())
	for i, n := range []uint16{answers, authorities, extras} {
		wire[6+2*i], wire[7+2*i] = byte(n>>8), byte(n)
	}
	rest := new(dns.Msg)
	if err := rest.Unpack(wire); err != nil {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	reply.Rcode = int(a.Rcode())
	reply.Answer = append(reply.Answer, rest.Answer...)
	reply.Ns = rest.Ns
}
