package certs

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Leaf is a certificate that is issued anew, with a new key, when two thirds of its life
// are over. That is looked at whenever it is asked for, at each TLS handshake: it holds
// too for a host that slept or whose clock was set, and needs no goroutine.
type Leaf struct {
	issue func() (cert, key []byte, err error)
	now   func() time.Time

	mu        sync.Mutex // guards the following
	cert, key []byte
	pair      *tls.Certificate
	renewAt   time.Time
}

// ServerLeaf is Server's certificate, renewed.
func (a *Authority) ServerLeaf(name string, dns []string, addrs []netip.Addr) (*Leaf, error) {
	return a.leaf(func() (cert, key []byte, err error) { return a.Server(name, dns, addrs) })
}

// ClientLeaf is Client's certificate, renewed.
func (a *Authority) ClientLeaf(user string, groups ...string) (*Leaf, error) {
	return a.leaf(func() (cert, key []byte, err error) { return a.Client(user, groups...) })
}

func (a *Authority) leaf(issue func() (cert, key []byte, err error)) (*Leaf, error) {
	l := &Leaf{issue: issue, now: a.now}
	if err := l.renew(); err != nil {
		return nil, err
	}
	return l, nil
}

// renew is called with the lock held, or before anybody else knows l.
func (l *Leaf) renew() error {
	cert, key, err := l.issue()
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("read back a certificate: %w", err)
	}
	now := l.now()
	l.cert, l.key, l.pair = cert, key, &pair
	l.renewAt = now.Add(pair.Leaf.NotAfter.Sub(now) * 2 / 3)
	return nil
}

// fresh renews what is due. Should that fail, the present one is good for a while yet,
// and the next one who asks tries again.
func (l *Leaf) fresh() {
	if !l.now().Before(l.renewAt) {
		_ = l.renew()
	}
}

// PEM is the present certificate and its key.
func (l *Leaf) PEM() (cert, key []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh()
	return l.cert, l.key
}

// RenewAt is when whoever asks gets another certificate.
func (l *Leaf) RenewAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renewAt
}

// GetCertificate is for servers' tls.Config.
func (l *Leaf) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh()
	return l.pair, nil
}

// GetClientCertificate is for clients' tls.Config.
func (l *Leaf) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return l.GetCertificate(nil)
}
