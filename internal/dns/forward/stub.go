package forward

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// stub is a domain with servers of its own.
type stub struct {
	domain []byte // in wire form and lower case
	up     *upstreams
}

// Use replaces whom to ask: servers for all names, those of the Config where there are
// none, and stubs for names in some domains, written as people do. Of two domains that
// hold a name the longer one counts. What was remembered is forgotten, as other servers
// may say something else.
func (f *Forwarder) Use(servers []netip.AddrPort, stubs map[string][]netip.AddrPort) error {
	up := f.standard
	if len(servers) > 0 {
		up = fixed(servers)
	}
	var list []stub
	for _, domain := range slices.Sorted(maps.Keys(stubs)) {
		name := dns.CanonicalName(domain)
		var buf [255]byte
		n, err := dns.PackDomainName(name, buf[:], 0, nil, false)
		if err != nil {
			return fmt.Errorf("stub domain %q: %w", domain, err)
		}
		s := stub{domain: slices.Clone(buf[:n]), up: fixed(stubs[domain])}
		s.up.domain = name
		list = append(list, s)
	}
	slices.SortStableFunc(list, func(a, b stub) int { return cmp.Compare(len(b.domain), len(a.domain)) })
	f.mu.Lock()
	f.up, f.stubs = up, list
	f.mu.Unlock()
	f.cache.clear()
	return nil
}

// upstreamsOf gives those for a name in wire form. f.mu is held.
func (f *Forwarder) upstreamsOf(name []byte) *upstreams {
	for _, s := range f.stubs {
		for at := 0; ; at += 1 + int(name[at]) {
			if bytes.Equal(name[at:], s.domain) {
				return s.up
			}
			if name[at] == 0 {
				break
			}
		}
	}
	return f.up
}

// lists are all upstreams there are. f.mu is held.
func (f *Forwarder) lists() []*upstreams {
	out := []*upstreams{f.up}
	for _, s := range f.stubs {
		out = append(out, s.up)
	}
	return out
}
