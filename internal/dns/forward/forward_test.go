package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portico.dev/portico/test/intime"
)

// clock is set by the tests.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Unix(1_800_000_000, 0).UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// responder is an upstream server that answers by a function; nil answers
// nothing.
type responder struct {
	addr    netip.AddrPort
	queries atomic.Int32
}

func respond(t *testing.T, handle func(m *dns.Msg) *dns.Msg) *responder {
	t.Helper()
	return respondRaw(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if reply := handle(m); reply != nil {
			_ = w.WriteMsg(reply)
		}
	})
}

// respondRaw is for servers that write what is no message.
func respondRaw(t *testing.T, handle dns.HandlerFunc) *responder {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &responder{addr: netip.MustParseAddrPort(pc.LocalAddr().String())}
	ready := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		if m.Question[0].Qtype == dns.TypeHINFO {
			return
		}
		r.queries.Add(1)
		handle(w, m)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ActivateAndServe() })
	<-ready
	t.Cleanup(func() { _ = srv.Shutdown(); wg.Wait() })
	return r
}

func answers(records ...string) func(m *dns.Msg) *dns.Msg {
	return func(m *dns.Msg) *dns.Msg {
		reply := new(dns.Msg).SetReply(m)
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			if _, ok := rr.(*dns.SOA); ok {
				reply.Ns = append(reply.Ns, rr)
			} else {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		return reply
	}
}

func code(rcode int) func(m *dns.Msg) *dns.Msg {
	return func(m *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(m, rcode) }
}

func silent(*dns.Msg) *dns.Msg { return nil }

func newForwarder(t *testing.T, cfg Config) *Forwarder {
	t.Helper()
	f := New(cfg)
	t.Cleanup(f.Close)
	return f
}

func question(t testing.TB, name string, typ uint16) Question {
	t.Helper()
	wire := make([]byte, 256)
	n, err := dns.PackDomainName(name, wire, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return Question{Name: wire[:n], Type: typ}
}

// read makes a message of an Answer.
func read(t testing.TB, q Question, a *Answer, now time.Time) *dns.Msg {
	t.Helper()
	name, _, _ := dns.UnpackDomainName(q.Name, 0)
	wire, err := new(dns.Msg).SetQuestion(name, q.Type).Pack()
	if err != nil {
		t.Fatal(err)
	}
	wire = a.Append(wire, now)
	an, ns, ar := a.Counts()
	for i, n := range []uint16{an, ns, ar} {
		wire[6+2*i], wire[7+2*i] = byte(n>>8), byte(n)
	}
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		t.Fatalf("%v\n%x", err, wire)
	}
	return m
}

func resolve(t testing.TB, f *Forwarder, q Question) *Answer {
	t.Helper()
	a, err := f.Resolve(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const soa = "example.com. 300 IN SOA ns.example.com. mail.example.com. 1 2 3 4 30"

// TestCacheLifetimes: an answer is remembered as long as its shortest TTL, a no
// as long as the SOA says (RFC 2308 5), other failures hardly or not at all.
// DNS-06
func TestCacheLifetimes(t *testing.T) {
	nx := func(records ...string) func(m *dns.Msg) *dns.Msg {
		return func(m *dns.Msg) *dns.Msg {
			reply := answers(records...)(m)
			reply.Rcode = dns.RcodeNameError
			return reply
		}
	}
	for _, tt := range []struct {
		name   string
		handle func(*dns.Msg) *dns.Msg
		want   time.Duration
	}{
		{"answer", answers("a.test. 60 IN A 192.0.2.1"), time.Minute},
		{"chain", answers("a.test. 60 IN CNAME b.test.", "b.test. 20 IN A 192.0.2.1"), 20 * time.Second},
		{"TTL 0", answers("a.test. 0 IN A 192.0.2.1"), 0},
		{"a week", answers("a.test. 604800 IN A 192.0.2.1"), time.Hour},
		{"nodata", answers(soa), 30 * time.Second},
		{"nodata after a CNAME", answers("a.test. 60 IN CNAME b.test.", soa), 30 * time.Second},
		{"nodata without SOA", answers(), 0},
		{"nxdomain", nx(soa), 30 * time.Second},
		{"nxdomain for a day", nx("example.com. 86400 IN SOA ns.example.com. mail.example.com. 1 2 3 4 86400"), 30 * time.Minute},
		{"nxdomain without SOA", nx(), 0},
		{"servfail", code(dns.RcodeServerFailure), time.Second},
		{"refused", code(dns.RcodeRefused), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClock()
			up := respond(t, tt.handle)
			f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}, Now: c.now})
			q := question(t, "a.test.", dns.TypeA)
			resolve(t, f, q)
			if tt.want > 0 {
				c.advance(tt.want - time.Nanosecond)
				if f.Cached(q, c.now()) == nil {
					t.Errorf("forgotten before %v", tt.want)
				}
				c.advance(time.Nanosecond)
			}
			if f.Cached(q, c.now()) != nil {
				t.Errorf("remembered for %v", tt.want)
			}
			other := q
			other.DO = true
			if f.Cached(other, c.now()) != nil {
				t.Error("an answer without signatures isn't one with them")
			}
		})
	}
}

// TestTTLsCountDown: a remembered answer says how long it is still good.
func TestTTLsCountDown(t *testing.T) {
	c := newClock()
	up := respond(t, answers("a.test. 60 IN CNAME b.test.", "b.test. 50 IN A 192.0.2.1", "b.test. 50 IN A 192.0.2.2"))
	f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}, Now: c.now})
	q := question(t, "a.test.", dns.TypeA)
	resolve(t, f, q)
	c.advance(12 * time.Second)
	m := read(t, q, resolve(t, f, q), c.now())
	if len(m.Answer) != 3 || m.Answer[0].Header().Ttl != 48 || m.Answer[2].Header().Ttl != 38 {
		t.Errorf("%v", m.Answer)
	}
	if up.queries.Load() != 1 {
		t.Errorf("%d queries", up.queries.Load())
	}
}

// TestCacheIsBounded: it forgets what was asked for longest ago.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(10 * (entryOverhead + 100 + 2))
	now := newClock().now()
	for i := range 100 {
		c.put(fmt.Sprintf("%02d", i), &Answer{wire: make([]byte, 100), stored: now, expires: now.Add(time.Minute)})
		c.get([]byte("00"), now)
	}
	if len(c.entries) != 10 || c.bytes > c.limit {
		t.Errorf("%d entries, %d bytes of %d", len(c.entries), c.bytes, c.limit)
	}
	for _, key := range []string{"00", "99", "91"} {
		if c.get([]byte(key), now) == nil {
			t.Errorf("%s is forgotten", key)
		}
	}
	c.put("00", &Answer{wire: make([]byte, 50), stored: now, expires: now.Add(time.Minute)})
	for key := range c.entries {
		c.drop(c.entries[key])
	}
	if c.bytes != 0 || c.recent.next != &c.recent {
		t.Errorf("%d bytes of nothing", c.bytes)
	}
}

// TestNextServer: who doesn't answer, refuses or lies is passed over. DNS-06
func TestNextServer(t *testing.T) {
	good := answers("a.test. 60 IN A 192.0.2.1")
	liar := func(m *dns.Msg) *dns.Msg {
		reply := answers("evil.test. 60 IN A 192.0.2.66")(m)
		reply.Question[0].Name = "evil.test."
		return reply
	}
	for name, bad := range map[string]func(*dns.Msg) *dns.Msg{
		"silent": silent, "servfail": code(dns.RcodeServerFailure), "refused": code(dns.RcodeRefused), "answers another question": liar,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := respond(t, bad), respond(t, good)
			f := newForwarder(t, Config{Servers: []netip.AddrPort{first.addr, second.addr}})
			q := question(t, "a.test.", dns.TypeA)
			if m := read(t, q, resolve(t, f, q), time.Now()); len(m.Answer) != 1 || m.Answer[0].Header().Name != "a.test." {
				t.Errorf("%v", m)
			}
			asked := first.queries.Load()
			resolve(t, f, question(t, "b.test.", dns.TypeA))
			if name == "silent" && first.queries.Load() != asked {
				t.Error("a server that didn't answer is asked first again")
			}
		})
	}
}

// TestAllRefuse hands on what the last one said.
func TestAllRefuse(t *testing.T) {
	up := respond(t, code(dns.RcodeRefused))
	f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}})
	if a := resolve(t, f, question(t, "a.test.", dns.TypeA)); a.Rcode() != dns.RcodeRefused || up.queries.Load() != 1 {
		t.Errorf("code %d after %d queries", a.Rcode(), up.queries.Load())
	}
}

// TestServerWithoutEDNS is asked again without. DNS-06
func TestServerWithoutEDNS(t *testing.T) {
	up := respond(t, func(m *dns.Msg) *dns.Msg {
		if m.IsEdns0() != nil {
			reply := new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
			reply.Question = nil
			return reply
		}
		return answers("a.test. 60 IN A 192.0.2.1")(m)
	})
	f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}})
	q := question(t, "a.test.", dns.TypeA)
	if m := read(t, q, resolve(t, f, q), time.Now()); len(m.Answer) != 1 || up.queries.Load() != 2 {
		t.Errorf("%v after %d queries", m, up.queries.Load())
	}
}

// TestOneQueryForMany: those who ask the same at once share one query. DNS-06
func TestOneQueryForMany(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	up := respond(t, func(m *dns.Msg) *dns.Msg {
		arrived <- struct{}{}
		<-release
		return answers("a.test. 0 IN A 192.0.2.1")(m)
	})
	f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}})
	var wg, entered sync.WaitGroup
	entered.Add(20)
	for range 20 {
		q := question(t, "a.test.", dns.TypeA)
		wg.Go(func() {
			entered.Done()
			if _, err := f.Resolve(context.Background(), q); err != nil {
				t.Error(err)
			}
		})
	}
	<-arrived
	entered.Wait() // all are at least about to look
	close(release)
	wg.Wait()
	// A late one may have come after the answer, which is not to be remembered.
	if n := up.queries.Load(); n > 3 {
		t.Errorf("%d queries for 20 askers", n)
	}
}

// TestCancelEndsWaiting: shutdown doesn't wait for a silent server.
func TestCancelEndsWaiting(t *testing.T) {
	intime.Within(t, time.Second, func(int) time.Duration { return cancelEndsWaiting(t) })
}

func cancelEndsWaiting(t *testing.T) (took time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	arrived := make(chan struct{}, 8)
	up := respond(t, func(*dns.Msg) *dns.Msg { arrived <- struct{}{}; return nil })
	f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}})
	done := make(chan error, 1)
	go func() {
		_, err := f.Resolve(ctx, question(t, "a.test.", dns.TypeA))
		done <- err
	}()
	<-arrived
	start := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	return time.Since(start)
}

// TestResolvConf is read again when it changes, and kept when it goes. DNS-06
func TestResolvConf(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	f := newForwarder(t, Config{ResolvConf: path, Now: c.now, Own: func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }})
	q := question(t, "a.test.", dns.TypeA)
	if _, err := f.Resolve(context.Background(), q); !errors.Is(err, ErrNoUpstream) {
		t.Errorf("without a file: %v", err)
	}
	list := func() string {
		t.Helper()
		list, _, err := f.up.current(c.now())
		if err != nil {
			t.Error(err)
		}
		return fmt.Sprint(addresses(list))
	}
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 127.0.0.1\nnameserver nonsense\nnameserver ::1\nnameserver 127.0.0.1\n", c.now())
	if got := list(); got != "[]" {
		t.Errorf("looked before its time: %s", got)
	}
	c.advance(checkEvery)
	if got := list(); got != "[127.0.0.1:53 [::1]:53]" {
		t.Errorf("first list: %s", got)
	}
	if _, err := f.Resolve(context.Background(), q); !errors.Is(err, ErrNoUpstream) {
		t.Errorf("own addresses only: %v", err)
	}
	write("nameserver 127.0.0.2\n", c.now().Add(time.Second))
	c.advance(checkEvery)
	if got := list(); got != "[127.0.0.2:53]" {
		t.Errorf("second list: %s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.advance(checkEvery)
	if got, _, err := f.up.current(c.now()); err == nil || len(got) != 1 {
		t.Errorf("without the file: %v, %v", got, err)
	}
	c.advance(checkEvery)
	if _, _, err := f.up.current(c.now()); err != nil {
		t.Errorf("the same error again: %v", err)
	}
}

// FuzzAnswer: whatever upstream sends is refused or made into an answer that can
// stand behind the question.
func FuzzAnswer(f *testing.F) {
	m := new(dns.Msg).SetQuestion("a.test.", dns.TypeA)
	for _, handle := range []func(*dns.Msg) *dns.Msg{answers("a.test. 60 IN CNAME b.test.", "b.test. 20 IN A 192.0.2.1", soa), code(dns.RcodeServerFailure)} {
		wire, err := handle(m).SetEdns0(1232, true).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	now := newClock().now()
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := new(dns.Msg)
		if in.Unpack(wire) != nil {
			return
		}
		a, err := newAnswer(in, m.Question[0], now)
		if err != nil {
			return
		}
		read(t, question(t, "a.test.", dns.TypeA), a, now.Add(10*time.Second))
	})
}

func BenchmarkCached(b *testing.B) {
	c := newCache(1 << 20)
	now := newClock().now()
	q := question(b, "www.example.com.", dns.TypeA)
	c.put(string(q.appendKey(nil)), &Answer{wire: make([]byte, 100), stored: now, expires: now.Add(time.Hour)})
	f := &Forwarder{cache: c}
	b.ReportAllocs()
	for b.Loop() {
		if f.Cached(q, now) == nil {
			b.Fatal("forgotten")
		}
	}
}
