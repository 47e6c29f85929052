package apiserver

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// maxCertificates bounds the memory of certCache; a cluster has a few hundred clients.
const maxCertificates = 4096

// certCache remembers which client certificates were verified. Verifying a chain is a
// tenth of what a small write costs, and the result changes with the time only: our
// authority doesn't change while the server runs, and revokes nothing. That the client
// holds the key was proved by the TLS handshake of its connection. Failures aren't
// remembered: anybody could fill the cache with them.
type certCache struct {
	verify authenticator.Request
	now    func() time.Time

	mu    sync.Mutex // guards the following
	known map[[sha256.Size]byte]verifiedCert
}

type verifiedCert struct {
	response *authenticator.Response
	until    time.Time
}

func newCertCache(verify authenticator.Request, now func() time.Time) *certCache {
	return &certCache{verify: verify, now: now, known: map[[sha256.Size]byte]verifiedCert{}}
}

// AuthenticateRequest implements authenticator.Request.
func (c *certCache) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	leaf := req.TLS.PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	c.mu.Lock()
	found, ok := c.known[sum]
	c.mu.Unlock()
	if ok && c.now().Before(found.until) {
		return found.response, true, nil
	}
	response, ok, err := c.verify.AuthenticateRequest(req)
	if err != nil || !ok {
		return response, ok, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCertificates {
		clear(c.known)
	}
	// No longer than any certificate of the chain is good for; an authority's own end
	// is checked by starting anew each hour.
	until := c.now().Add(time.Hour)
	for _, cert := range req.TLS.PeerCertificates {
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	c.known[sum] = verifiedCert{response, until}
	return response, true, nil
}
