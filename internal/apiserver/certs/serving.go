package certs

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Serving is the API server's own certificate. It is renewed, and follows the host's
// addresses, while the server runs (OPS-05, NET-04); the library asks it for the present
// one and runs it for as long as it serves.
type Serving struct {
	authority *Authority
	dns       []string

	mu        sync.Mutex   // guards the following
	always    []netip.Addr // whatever the host's are
	host      []netip.Addr
	leaf      *Leaf
	listeners []dynamiccertificates.Listener
}

var (
	_ dynamiccertificates.CertKeyContentProvider = (*Serving)(nil)
	_ dynamiccertificates.ControllerRunner       = (*Serving)(nil)
)

// NewServing issues the certificate for the given names and addresses.
func NewServing(a *Authority, dns []string, addrs []netip.Addr) (*Serving, error) {
	s := &Serving{authority: a, dns: dns}
	if err := s.AddAddresses(addrs...); err != nil {
		return nil, err
	}
	return s, nil
}

// AddAddresses makes the certificate good for more addresses.
func (s *Serving) AddAddresses(addrs ...netip.Addr) error {
	return s.change(func() { s.always = union(s.always, addrs) })
}

// FollowHost makes the certificate good for the addresses that the host has now, and no
// longer for those that it had: with temporary addresses they would become ever more.
func (s *Serving) FollowHost(addrs ...netip.Addr) error {
	return s.change(func() { s.host = union(nil, addrs) })
}

// change issues the certificate anew if its addresses become others.
func (s *Serving) change(set func()) error {
	s.mu.Lock()
	before := union(s.always, s.host)
	always, host := s.always, s.host
	set()
	now := union(s.always, s.host)
	if s.leaf != nil && len(now) == len(before) && len(union(now, before)) == len(now) {
		s.mu.Unlock()
		return nil
	}
	leaf, err := s.authority.ServerLeaf("portico-apiserver", s.dns, now)
	if err != nil {
		s.always, s.host = always, host
		s.mu.Unlock()
		return err
	}
	s.leaf = leaf
	s.mu.Unlock()
	s.tell()
	return nil
}

// union keeps the order; a is never written to.
func union(a, b []netip.Addr) []netip.Addr {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}

// tell has the listeners look again.
func (s *Serving) tell() {
	s.mu.Lock()
	listeners := slices.Clone(s.listeners)
	s.mu.Unlock()
	for _, l := range listeners {
		l.Enqueue()
	}
}

func (s *Serving) present() *Leaf {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaf
}

// Name implements dynamiccertificates.CertKeyContentProvider.
func (s *Serving) Name() string { return "portico-apiserver" }

// CurrentCertKeyContent implements dynamiccertificates.CertKeyContentProvider. The
// authority's certificate is behind the server's own, for hosts that know no more than
// its hash.
func (s *Serving) CurrentCertKeyContent() (cert, key []byte) {
	cert, key = s.present().PEM()
	return slices.Concat(cert, s.authority.PEM()), key
}

// AddListener implements dynamiccertificates.Notifier.
func (s *Serving) AddListener(l dynamiccertificates.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
}

// RunOnce implements dynamiccertificates.ControllerRunner.
func (s *Serving) RunOnce(context.Context) error { return nil }

// The next look is at the renewal, within these bounds: a timer doesn't count the time
// that a host sleeps, and near the authority's end there is always one due.
const maxLook, minLook = time.Minute, 50 * time.Millisecond

// Run implements dynamiccertificates.ControllerRunner: it has the library fetch a
// certificate that is due.
func (s *Serving) Run(ctx context.Context, _ int) {
	for {
		wait := min(maxLook, max(minLook, s.present().RenewAt().Sub(s.authority.now())))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			s.tell()
		}
	}
}
