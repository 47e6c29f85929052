package forward

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portico.dev/portico/test/intime"
)

// Answers that are too old are given when upstream fails or is silent, for a day, with a
// short life (RFC 8767). DNS-06
func TestServeStale(t *testing.T) {
	c := newClock()
	var how atomic.Pointer[func(*dns.Msg) *dns.Msg]
	set := func(h func(*dns.Msg) *dns.Msg) { how.Store(&h) }
	r := respond(t, func(m *dns.Msg) *dns.Msg { return (*how.Load())(m) })
	f := newForwarder(t, Config{Servers: []netip.AddrPort{r.addr}, Now: c.now})
	q := question(t, "www.example.com.", dns.TypeA)
	look := func() (code int, ttl uint32) {
		t.Helper()
		a := resolve(t, f, q)
		if m := read(t, q, a, c.now()); len(m.Answer) > 0 {
			ttl = m.Answer[0].Header().Ttl
		}
		return int(a.Rcode()), ttl
	}
	set(answers("www.example.com. 60 IN A 192.0.2.80"))
	if code, ttl := look(); code != dns.RcodeSuccess || ttl != 60 {
		t.Fatalf("fresh: code %d, TTL %d", code, ttl)
	}

	set(code(dns.RcodeServerFailure))
	asked := int32(0)
	for range 3 { // on a busy machine a reply may come late, and is asked for again
		c.advance(time.Hour)
		before := r.queries.Load()
		for range 2 {
			if code, ttl := look(); code != dns.RcodeSuccess || ttl != 30 {
				t.Errorf("upstream fails: code %d, TTL %d", code, ttl)
			}
		}
		waitFor(t, f)
		if asked = r.queries.Load() - before; asked == 1 {
			break
		}
	}
	if asked != 1 {
		t.Errorf("%d queries while it fails, want 1 within 30 s", asked)
	}

	intime.Within(t, staleAfter+time.Second, func(int) time.Duration {
		c.advance(2 * time.Minute)
		set(silent)
		begin := time.Now()
		if code, ttl := look(); code != dns.RcodeSuccess || ttl != 30 {
			t.Errorf("upstream is silent: code %d, TTL %d", code, ttl)
		}
		took := time.Since(begin)

		set(answers("www.example.com. 60 IN A 192.0.2.81"))
		c.advance(time.Minute)
		waitFor(t, f) // the question that was silent is still on its way
		c.advance(time.Minute)
		if code, ttl := look(); code != dns.RcodeSuccess || ttl != 60 {
			t.Errorf("upstream is back: code %d, TTL %d", code, ttl)
		}
		return took
	})

	c.advance(staleFor + 2*time.Minute)
	set(code(dns.RcodeServerFailure))
	if code, _ := look(); code != dns.RcodeServerFailure {
		t.Errorf("after more than a day: code %d", code)
	}
}

// waitFor waits until no question is on its way.
func waitFor(t *testing.T, f *Forwarder) {
	t.Helper()
	f.mu.Lock()
	var flights []*flight
	for _, fl := range f.asking {
		flights = append(flights, fl)
	}
	f.mu.Unlock()
	for _, fl := range flights {
		<-fl.done
	}
}

// Where nobody has answered lately, names fail soon; and the same name at once.
func TestDeadUpstreamFailsFast(t *testing.T) {
	r := respond(t, silent)
	c := newClock()
	f := newForwarder(t, Config{Servers: []netip.AddrPort{r.addr}, Now: c.now})
	ctx := context.Background()
	if _, err := f.Resolve(ctx, question(t, "first.example.com.", dns.TypeA)); err == nil {
		t.Fatal("a silent server answered")
	}
	intime.Within(t, tryFor, func(n int) time.Duration {
		q := question(t, fmt.Sprintf("other%d.example.com.", n), dns.TypeA)
		begin := time.Now()
		if _, err := f.Resolve(ctx, q); err == nil {
			t.Error("a silent server answered")
		}
		took := time.Since(begin)
		if a := f.Cached(q, c.now()); a == nil || a.Rcode() != dns.RcodeServerFailure {
			t.Errorf("the same name again: %v", a)
		}
		return took
	})
}

// Names in a stub domain are asked of its servers alone. DNS-06
func TestStubDomains(t *testing.T) {
	all := respond(t, answers("name.example.com. 60 IN A 192.0.2.1"))
	corp := respond(t, answers("name.corp.example.com. 60 IN A 192.0.2.2"))
	deep := respond(t, answers("name.deep.corp.example.com. 60 IN A 192.0.2.3"))
	f := newForwarder(t, Config{Servers: []netip.AddrPort{all.addr}, Now: newClock().now})
	if err := f.Use(nil, map[string][]netip.AddrPort{"Corp.example.com": {corp.addr}, "deep.corp.example.com.": {deep.addr}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]*responder{
		"a.example.com.": all, "notcorp.example.com.": all, "corp.example.com.": corp, "a.b.corp.example.com.": corp,
		"deep.corp.example.com.": deep, "a.deep.corp.example.com.": deep, ".": all,
	} {
		before := want.queries.Load()
		resolve(t, f, question(t, name, dns.TypeA))
		if want.queries.Load() != before+1 {
			t.Errorf("%s was asked of somebody else", name)
		}
	}
	before := all.queries.Load()
	if err := f.Use([]netip.AddrPort{corp.addr}, nil); err != nil {
		t.Fatal(err)
	}
	resolve(t, f, question(t, "a.example.com.", dns.TypeA))
	if all.queries.Load() != before {
		t.Error("other servers for all names: the former was asked")
	}
	if err := f.Use(nil, map[string][]netip.AddrPort{"a..b": nil}); err == nil {
		t.Error("a domain that is no name is accepted")
	}
}
