package forward

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	// ourUDP is the size of answers we take by UDP (DNS flag day 2020).
	ourUDP = 1232
	// tryFor and tryAll bound the wait for one server and for all: a client
	// gives up after 5 s (resolv.conf(5)) and should hear of a failure before.
	tryFor = 1500 * time.Millisecond
	tryAll = 4500 * time.Millisecond
	// tryDead bounds the wait when no server has answered lately: one that is back
	// answers within it, and where all are gone names fail soon.
	tryDead = 300 * time.Millisecond
	// rounds is how often each server is asked.
	rounds = 2
	// defaultCache is the memory for answers.
	defaultCache = 16 << 20

	// Answers that are too old are better than none (RFC 8767; the values are its own
	// recommendations, section 5). staleFor is how long after its end an answer may be
	// given when nobody can be asked, staleTTL is what its records get then and how long
	// nobody is asked again, and staleAfter is how long a client waits for a fresh one.
	staleFor   = 24 * time.Hour
	staleTTL   = 30 * time.Second
	staleAfter = 1800 * time.Millisecond
)

// ErrNoUpstream says that there is nobody to ask.
var ErrNoUpstream = errors.New("no upstream server is configured")

// Config says whom to ask.
type Config struct {
	Servers    []netip.AddrPort // when empty, those of ResolvConf; Use changes them later
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
	cfg        Config
	standard   *upstreams // as the Config says
	cache      *cache
	ctx        context.Context // of what runs in the background; Close ends it
	stop       context.CancelFunc
	background sync.WaitGroup

	mu     sync.Mutex // guards the following
	up     *upstreams // for names of no stub
	stubs  []stub     // the longest domain first
	asking map[string]*flight
	closed bool
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
		f.standard = fixed(cfg.Servers)
	} else {
		f.standard = &upstreams{path: cfg.ResolvConf}
	}
	f.up = f.standard
	return f
}

// Close ends what runs in the background and waits for it. Resolve isn't to be called after.
func (f *Forwarder) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.background.Wait()
}

// Cached gives the remembered answer, nil when there is none. It never waits and
// allocates nothing.
func (f *Forwarder) Cached(q Question, now time.Time) *Answer {
	var buf [maxKey]byte
	return f.cache.get(q.appendKey(buf[:0]), now)
}

// Resolve gives the remembered answer or asks. Those who ask the same meanwhile
// wait for the same answer; so a loop through some other resolver, which detects
// nothing, costs one query and a timeout and not a storm. Where there is an answer
// that is too old, it is given when nobody answers in time.
func (f *Forwarder) Resolve(ctx context.Context, q Question) (*Answer, error) {
	now := f.cfg.Now()
	if a := f.Cached(q, now); a != nil {
		return a, nil
	}
	key := string(q.appendKey(nil))
	stale := f.cache.stale(key, now)
	fl, err := f.join(key, q)
	if err != nil {
		return nil, err
	}
	var enough <-chan time.Time
	if stale != nil {
		timer := time.NewTimer(staleAfter)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-fl.done:
		return fl.answer, fl.err
	case <-enough:
		return stale.again(now), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join gives the question's flight, a new one where none is on its way. It goes on
// when the clients that wait for it are gone: the next one has the answer then.
func (f *Forwarder) join(key string, q Question) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.asking[key]; fl != nil {
		return fl, nil
	}
	if f.closed {
		return nil, context.Canceled
	}
	fl := &flight{done: make(chan struct{})}
	f.asking[key] = fl
	q.Name = []byte(key[:len(q.Name)]) // the caller's may change meanwhile
	f.background.Go(func() {
		fl.answer, fl.err = f.fetch(key, q)
		f.mu.Lock()
		delete(f.asking, key)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl, nil
}

// fetch asks and remembers. What failed is remembered, too, for a moment (RFC 9520
// 3.2), unless there is an old answer.
func (f *Forwarder) fetch(key string, q Question) (*Answer, error) {
	a, err := f.exchange(f.ctx, q)
	if err == nil && a.good() {
		f.cache.put(key, a)
		return a, nil
	}
	now := f.cfg.Now()
	if stale := f.cache.stale(key, now); stale != nil && f.ctx.Err() == nil {
		a = stale.again(now)
		f.cache.put(key, a)
		return a, nil
	}
	if err == nil {
		f.cache.put(key, a)
	} else if failed, problem := failure(q, now); problem == nil && f.ctx.Err() == nil {
		f.cache.put(key, failed)
	}
	return a, err
}

// IsProbe reports whether a query's name is one of our own probes that came back
// through a server, which is then asked no more.
func (f *Forwarder) IsProbe(name string) bool {
	f.mu.Lock()
	lists := f.lists()
	f.mu.Unlock()
	for _, up := range lists {
		s, news := up.isProbe(name)
		if news {
			f.cfg.Logger.Error("upstream server forwards to us: a loop; it is left out until the list of servers changes",
				"server", s.addr, "file", up.path)
		}
		if s != nil {
			return true
		}
	}
	return false
}
