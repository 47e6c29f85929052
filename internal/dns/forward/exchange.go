package forward

import (
	"context"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// exchange asks the servers in turn until one has an answer that counts.
func (f *Forwarder) exchange(ctx context.Context, q Question) (*Answer, error) {
	name, _, err := dns.UnpackDomainName(q.Name, 0)
	if err != nil {
		return nil, fmt.Errorf("read the name: %w", err)
	}
	servers, alive, err := f.servers(q.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	m := message(name, q)
	each, all := tryFor, tryAll
	if !alive {
		each, all = tryDead, tryDead
	}
	deadline := time.Now().Add(all) // sockets know no other clock
	var last *dns.Msg
	failure := fmt.Errorf("%s: no server answered", name)
	for range rounds {
		for _, s := range servers {
			left := time.Until(deadline)
			if ctx.Err() != nil || left <= 0 {
				return nil, failure
			}
			in, err := f.try(ctx, m, s, min(left, each))
			if err != nil {
				failure = err
				continue
			}
			if in.Rcode == dns.RcodeSuccess || in.Rcode == dns.RcodeNameError {
				return newAnswer(in, m.Question[0], f.cfg.Now())
			}
			last = in
		}
		if last != nil { // all that live have refused; asking again is no use
			return newAnswer(last, m.Question[0], f.cfg.Now())
		}
	}
	return nil, failure
}

func message(name string, q Question) *dns.Msg {
	m := new(dns.Msg)
	m.RecursionDesired = true
	m.CheckingDisabled = q.CD
	m.Question = []dns.Question{{Name: name, Qtype: q.Type, Qclass: dns.ClassINET}}
	m.SetEdns0(ourUDP, q.DO)
	return m
}

// try asks one server, again without EDNS when it doesn't understand that (RFC
// 6891 7), and notes how it went.
func (f *Forwarder) try(ctx context.Context, m *dns.Msg, s *server, timeout time.Duration) (*dns.Msg, error) {
	m = m.Copy()
	m.Id = dns.Id()
	in, err := ask(ctx, m, s, timeout)
	if err == nil && (in.Rcode == dns.RcodeFormatError || in.Rcode == dns.RcodeNotImplemented) {
		m.Extra = nil
		m.Id = dns.Id()
		in, err = ask(ctx, m, s, timeout)
	}
	if err != nil {
		s.failed.Store(f.cfg.Now().UnixNano())
		return nil, err
	}
	s.failed.Store(0)
	return in, nil
}

// servers gives whom to ask for a name now, whether one of them lives as far as is
// known, and probes a new list for loops.
func (f *Forwarder) servers(name []byte) (fit []*server, alive bool, err error) {
	f.mu.Lock()
	up := f.upstreamsOf(name)
	f.mu.Unlock()
	list, changed, err := up.current(f.cfg.Now())
	if err != nil {
		f.cfg.Logger.Warn("names outside the cluster can't be resolved by the latest servers", "error", err)
	}
	if changed {
		f.cfg.Logger.Info("upstream servers", "domain", up.domain, "file", up.path, "servers", addresses(list))
		f.probeAll(list)
	}
	fit, alive = order(list, f.cfg.Own, f.cfg.Now())
	if len(fit) > 0 {
		return fit, alive, nil
	}
	if up.tell() {
		f.cfg.Logger.Warn("no upstream server for names outside the cluster: they answer SERVFAIL",
			"domain", up.domain, "file", up.path, "remedy", "put a nameserver that isn't this server there")
	}
	return nil, false, ErrNoUpstream
}

func (f *Forwarder) probeAll(list []*server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	for _, s := range list {
		if !f.cfg.Own(s.addr) {
			f.background.Go(func() { f.probe(s) })
		}
	}
}

// probe asks a server for a name that only we know. Whatever it answers, the
// query arriving here says that it forwards to us.
func (f *Forwarder) probe(s *server) {
	m := new(dns.Msg)
	m.SetQuestion(s.probe, dns.TypeHINFO)
	_, _ = ask(f.ctx, m, s, tryFor)
}

func addresses(list []*server) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.addr.String()
	}
	return out
}
