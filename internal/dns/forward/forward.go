package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// ourUDP is the size of answers we take by UDP (DNS flag day 2020).
	ourUDP = 1232
	// tryFor and tryAll bound the wait for one server and for all: a client
	// gives up after 5 s (resolv.conf(5)) and should hear of a failure before.
	tryFor = 1500 * time.Millisecond
	tryAll = 4500 * time.Millisecond
	// rounds is how often each server is asked.
	rounds = 2
	// defaultCache is the memory for answers.
	defaultCache = 16 << 20
)

// ErrNoUpstream says that there is nobody to ask.
var ErrNoUpstream = errors.New("no upstream server is configured")

// Config says whom to ask.
type Config struct {
	Servers    []netip.AddrPort // when empty, those of ResolvConf
	ResolvConf string           // a file of resolv.conf(5); re-read when it changes
	// Own reports addresses at which this very server answers: asking them would
	// be a loop. nil: none.
	Own    func(netip.AddrPort) bool
	Cache  int              // bytes for answers; 0: 16 MiB
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger
}

// Question is a question of class IN. Name is in wire form and lower case.
type Question struct {
	Name   []byte
	Type   uint16
	DO, CD bool
}

// maxKey is the longest key: a name, a type and the two flags.
const maxKey = 255 + 3

func (q Question) appendKey(b []byte) []byte {
	var flags byte
	if q.DO {
		flags = 1
	}
	if q.CD {
		flags |= 2
	}
	return append(append(b, q.Name...), byte(q.Type>>8), byte(q.Type), flags)
}

// Forwarder asks upstream servers. It is safe for concurrent use.
type Forwarder struct {
	cfg   Config
	up    upstreams
	cache *cache
	ctx   context.Context // of the probes; Close ends it
	stop  context.CancelFunc

	mu     sync.Mutex // guards the following
	asking map[string]*flight
	told   bool // that there is no server
	closed bool
	probes sync.WaitGroup
}

// flight is a question on its way; done closes when answer and err are set.
type flight struct {
	done   chan struct{}
	answer *Answer
	err    error
}

// New makes a Forwarder. It reads the file with the first question.
func New(cfg Config) *Forwarder {
	if cfg.Own == nil {
		cfg.Own = func(netip.AddrPort) bool { return false }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Cache == 0 {
		cfg.Cache = defaultCache
	}
	f := &Forwarder{cfg: cfg, cache: newCache(cfg.Cache), asking: map[string]*flight{}}
	f.ctx, f.stop = context.WithCancel(context.Background())
	if len(cfg.Servers) > 0 {
		f.up.set(cfg.Servers)
	} else {
		f.up.path = cfg.ResolvConf
	}
	return f
}

// Close ends what runs in the background and waits for it. Resolve isn't to be called after.
func (f *Forwarder) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.probes.Wait()
}

// Cached gives the remembered answer, nil when there is none. It never waits and
// allocates nothing.
func (f *Forwarder) Cached(q Question, now time.Time) *Answer {
	var buf [maxKey]byte
	return f.cache.get(q.appendKey(buf[:0]), now)
}

// Resolve gives the remembered answer or asks. Those who ask the same meanwhile
// wait for the same answer; so a loop through some other resolver, which detects
// nothing, costs one query and a timeout and not a storm.
func (f *Forwarder) Resolve(ctx context.Context, q Question) (*Answer, error) {
	if a := f.Cached(q, f.cfg.Now()); a != nil {
		return a, nil
	}
	key := string(q.appendKey(nil))
	f.mu.Lock()
	fl := f.asking[key]
	leader := fl == nil
	if leader {
		fl = &flight{done: make(chan struct{})}
		f.asking[key] = fl
	}
	f.mu.Unlock()
	if !leader {
		select {
		case <-fl.done:
			return fl.answer, fl.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	fl.answer, fl.err = f.exchange(ctx, q)
	if fl.err == nil {
		f.cache.put(key, fl.answer)
	}
	f.mu.Lock()
	delete(f.asking, key)
	f.mu.Unlock()
	close(fl.done)
	return fl.answer, fl.err
}

// IsProbe reports whether a query's name is one of our own probes that came back
// through a server, which is then asked no more.
func (f *Forwarder) IsProbe(name string) bool {
	s, news := f.up.isProbe(name)
	if news {
		f.cfg.Logger.Error("upstream server forwards to us: a loop; it is left out until the list of servers changes",
			"server", s.addr, "file", f.up.path)
	}
	return s != nil
}

// exchange asks the servers in turn until one has an answer that counts.
func (f *Forwarder) exchange(ctx context.Context, q Question) (*Answer, error) {
	name, _, err := dns.UnpackDomainName(q.Name, 0)
	if err != nil {
		return nil, fmt.Errorf("read the name: %w", err)
	}
	servers, err := f.servers()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	m := message(name, q)
	deadline := time.Now().Add(tryAll) // sockets know no other clock
	var last *dns.Msg
	failure := fmt.Errorf("%s: no server answered", name)
	for range rounds {
		for _, s := range servers {
			left := time.Until(deadline)
			if ctx.Err() != nil || left <= 0 {
				return nil, failure
			}
			in, err := f.try(ctx, m, s, min(left, tryFor))
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

// servers gives whom to ask now, and probes a new list for loops.
func (f *Forwarder) servers() ([]*server, error) {
	list, changed, err := f.up.current(f.cfg.Now())
	if err != nil {
		f.cfg.Logger.Warn("names outside the cluster can't be resolved by the latest servers", "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if changed {
		f.told = false
		f.cfg.Logger.Info("upstream servers read", "file", f.up.path, "servers", addresses(list))
	}
	if changed && !f.closed {
		for _, s := range list {
			if !f.cfg.Own(s.addr) {
				f.probes.Go(func() { f.probe(s) })
			}
		}
	}
	fit := order(list, f.cfg.Own, f.cfg.Now())
	if len(fit) > 0 {
		return fit, nil
	}
	if !f.told {
		f.told = true
		f.cfg.Logger.Warn("no upstream server for names outside the cluster: they answer SERVFAIL",
			"file", f.up.path, "remedy", "put a nameserver that isn't this server there")
	}
	return nil, ErrNoUpstream
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
