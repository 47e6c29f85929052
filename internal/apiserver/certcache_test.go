package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A verified certificate is good until it ends, and no longer.
func TestCertCacheForgets(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := now.Add(10 * time.Minute)
	verified := 0
	good := true
	cache := newCertCache(authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
		verified++
		return &authenticator.Response{User: &user.DefaultInfo{Name: "jane"}}, good, nil
	}), func() time.Time { return now })
	ask := func(raw string) bool {
		cert := &x509.Certificate{Raw: []byte(raw), NotAfter: end}
		_, ok, _ := cache.AuthenticateRequest(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}})
		return ok
	}
	for range 3 {
		if !ask("a") {
			t.Error("refused")
		}
	}
	if verified != 1 {
		t.Errorf("verified %d times, want once", verified)
	}
	good = false
	for range 2 { // a failure isn't remembered, nor is another certificate's success used
		if ask("b") {
			t.Error("a bad certificate passed")
		}
	}
	if verified != 3 {
		t.Errorf("verified %d times, want 3", verified)
	}
	if now = end; ask("a") {
		t.Error("an expired certificate passed")
	}
}
