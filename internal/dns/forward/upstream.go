package forward

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxServers bounds the file's list; libc reads three.
	maxServers = 8
	// checkEvery is how often the file's time of change is looked at, while
	// questions come.
	checkEvery = time.Second
	// benched is how long a server that didn't answer stands behind the others.
	benched = 10 * time.Second
)

// server is one upstream.
type server struct {
	addr    netip.AddrPort
	probe   string       // the name that shows whether it asks us in turn
	looping atomic.Bool  // it does
	failed  atomic.Int64 // when it last failed to answer, Unix nanoseconds
}

// upstreams is the list of servers: fixed, or as the file says now.
type upstreams struct {
	path   string
	domain string // for whose names they are; "" for all others

	mu      sync.Mutex // guards the following
	told    bool       // that there is none in the list
	list    []*server
	fresh   bool // nobody has seen the list yet
	checked time.Time
	mtime   time.Time
	size    int64
	lastErr string
}

// current gives the servers, and whether the list is new since the last call. An
// error is reported once, until it changes.
func (u *upstreams) current(now time.Time) (list []*server, changed bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.path != "" && (u.checked.IsZero() || now.Sub(u.checked) >= checkEvery) {
		u.checked = now
		err = u.reload()
	}
	changed, u.fresh = u.fresh, false
	switch {
	case err == nil:
		u.lastErr = ""
	case err.Error() == u.lastErr:
		err = nil
	default:
		u.lastErr = err.Error()
	}
	return u.list, changed, err
}

// reload reads the file if it changed. What can't be read leaves the list as it
// is: programs that rewrite the file may be half-way.
func (u *upstreams) reload() error {
	info, err := os.Stat(u.path)
	if err != nil {
		return fmt.Errorf("upstream servers: %w", err)
	}
	if info.ModTime().Equal(u.mtime) && info.Size() == u.size {
		return nil
	}
	conf, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return fmt.Errorf("upstream servers: read %s: %w", u.path, err)
	}
	u.mtime, u.size = info.ModTime(), info.Size()
	var addrs []netip.AddrPort
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	u.set(addrs)
	return nil
}

func fixed(addrs []netip.AddrPort) *upstreams {
	u := &upstreams{}
	u.set(addrs)
	return u
}

// tell reports whether nobody was told yet that there is none to ask in this list.
func (u *upstreams) tell() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	told := u.told
	u.told = true
	return !told
}

func (u *upstreams) set(addrs []netip.AddrPort) {
	u.list, u.fresh, u.told = nil, true, false
	seen := map[netip.AddrPort]bool{}
	for _, a := range addrs {
		if seen[a] || len(u.list) == maxServers {
			continue
		}
		seen[a] = true
		u.list = append(u.list, &server{addr: a, probe: probeName()})
	}
}

// probeName is a name that nobody but us can have asked for.
func probeName() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	text := hex.EncodeToString(b[:])
	return text[:16] + "." + text[16:] + "."
}

// isProbe marks the server that a probe came back from, and reports whether the
// name was a probe and whether that is news.
func (u *upstreams) isProbe(name string) (s *server, news bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.list {
		if strings.EqualFold(s.probe, name) {
			return s, s.looping.CompareAndSwap(false, true)
		}
	}
	return nil, false
}

// order gives the servers to ask, those that lately failed behind the others, and
// whether there are others.
func order(list []*server, own func(netip.AddrPort) bool, now time.Time) (_ []*server, alive bool) {
	var fit, benchedNow []*server
	for _, s := range list {
		switch {
		case s.looping.Load() || own(s.addr):
		case now.Sub(time.Unix(0, s.failed.Load())) < benched:
			benchedNow = append(benchedNow, s)
		default:
			fit = append(fit, s)
		}
	}
	return append(fit, benchedNow...), len(fit) > 0
}

// ask sends one question to one server: UDP from a fresh socket, so that each
// query has its own random source port beside its random id (RFC 5452 9.2), then
// TCP when the answer didn't fit.
func ask(ctx context.Context, m *dns.Msg, s *server, timeout time.Duration) (*dns.Msg, error) {
	in, err := exchange(ctx, "udp", m, s, timeout)
	if err == nil && in.Truncated {
		in, err = exchange(ctx, "tcp", m, s, timeout)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", s.addr, err)
	}
	if in.Id != m.Id || !in.Response || in.Truncated {
		return nil, fmt.Errorf("ask %s: it answered something else", s.addr)
	}
	// Servers that know no EDNS may leave the question out when they refuse.
	if len(in.Question) == 0 && in.Rcode == dns.RcodeFormatError {
		return in, nil
	}
	if len(in.Question) != 1 || !sameQuestion(in.Question[0], m.Question[0]) {
		return nil, fmt.Errorf("ask %s: it answered another question", s.addr)
	}
	return in, nil
}

// exchange ends early, by an error, when ctx does.
func exchange(ctx context.Context, network string, m *dns.Msg, s *server, timeout time.Duration) (*dns.Msg, error) {
	client := dns.Client{Net: network, UDPSize: ourUDP, Timeout: timeout, Dialer: &net.Dialer{Timeout: timeout}}
	conn, err := client.DialContext(ctx, s.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if err := conn.WriteMsg(m); err != nil {
		return nil, err
	}
	for {
		in, err := conn.ReadMsg()
		// A datagram without our id, which may be no message at all, can be anybody's
		// who guessed the port: it ends no wait.
		var failed net.Error
		if network == "tcp" || in != nil && in.Id == m.Id || errors.As(err, &failed) {
			return in, err
		}
	}
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
