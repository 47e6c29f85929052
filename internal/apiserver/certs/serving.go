package certs

import (
	"net/netip"
	"slices"
	"sync"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Serving is the API server's own certificate. It follows the host's addresses
// while the server runs (NET-04); the library asks it for the present one.
type Serving struct {
	authority *Authority
	dns       []string

	mu        sync.Mutex // guards the following
	addrs     []netip.Addr
	cert, key []byte
	listeners []dynamiccertificates.Listener
}

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
	s.mu.Lock()
	all := slices.Clone(s.addrs)
	for _, a := range addrs {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if s.cert != nil && len(all) == len(s.addrs) {
		s.mu.Unlock()
		return nil
	}
	cert, key, err := s.authority.Server("portico-apiserver", s.dns, all)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.addrs, s.cert, s.key = all, cert, key
	listeners := slices.Clone(s.listeners)
	s.mu.Unlock()
	for _, l := range listeners {
		l.Enqueue()
	}
	return nil
}

// Name implements dynamiccertificates.CertKeyContentProvider.
func (s *Serving) Name() string { return "portico-apiserver" }

// CurrentCertKeyContent implements dynamiccertificates.CertKeyContentProvider.
func (s *Serving) CurrentCertKeyContent() (cert, key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert, s.key
}

// AddListener implements dynamiccertificates.Notifier.
func (s *Serving) AddListener(l dynamiccertificates.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
}
