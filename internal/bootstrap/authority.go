package bootstrap

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	hashPrefix = "sha256:"
	// dialTimeout is for the first look at a server, by which a person waits.
	dialTimeout = 10 * time.Second
)

// Hash pins an authority: the SHA-256 of its SubjectPublicKeyInfo, as RFC 7469 has it
// and kubeadm prints it.
type Hash [sha256.Size]byte

// HashOf is the hash of a certificate's key.
func HashOf(cert *x509.Certificate) Hash { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// HashOfPEM is the hash of the first certificate in a PEM file.
func HashOfPEM(raw []byte) (Hash, error) {
	cert, err := parseCertificate(raw)
	if err != nil {
		return Hash{}, err
	}
	return HashOf(cert), nil
}

// HashesOfPEM are those of all certificates in a PEM file: while a cluster changes its
// authority there are two.
func HashesOfPEM(raw []byte) (out []Hash, err error) {
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		cert, err := parseCertificate(pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		if h := HashOf(cert); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, errNoCertificate
	}
	return out, nil
}

// ParseHash reads sha256:HEX.
func ParseHash(text string) (h Hash, err error) {
	raw, err := hex.DecodeString(strings.TrimPrefix(text, hashPrefix))
	if err != nil || len(raw) != len(h) || !strings.HasPrefix(text, hashPrefix) {
		return Hash{}, fmt.Errorf("%q isn't of the form sha256: and 64 hexadecimal digits; `portico token create` on the server prints it", text)
	}
	return Hash(raw), nil
}

// ParseHashes reads several: while a cluster changes its authority, one of them counts.
func ParseHashes(texts []string) ([]Hash, error) {
	out := make([]Hash, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = ParseHash(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (h Hash) String() string { return hashPrefix + hex.EncodeToString(h[:]) }

// ParseServer reads the URL of an API server. What a path, a query or a name before the
// host would mean to the server isn't known, and a password there would be kept.
func ParseServer(text string) (*url.URL, error) {
	at, err := url.Parse(text)
	if err != nil || at.Scheme != "https" || at.Hostname() == "" || at.User != nil || strings.Trim(at.Path, "/") != "" ||
		at.RawQuery != "" || at.ForceQuery || at.Fragment != "" {
		return nil, errors.New("is not a URL of the API; write it like https://192.0.2.2:6443")
	}
	return &url.URL{Scheme: at.Scheme, Host: at.Host}, nil
}

// ErrForeign says that a server isn't the one that the hash is of.
var ErrForeign = errors.New("its authority has another hash")

// FetchAuthority asks a server for the certificate of its authority, PEM, and believes
// nobody: the server shows it in the TLS handshake, behind its own certificate (RFC 8446,
// 4.4.2), and it counts if it has one of the hashes and signed what the server proves to be.
func FetchAuthority(ctx context.Context, server *url.URL, want ...Hash) ([]byte, error) {
	var authority *x509.Certificate
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTimeout},
		Config: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it
			MinVersion:         tls.VersionTLS12,
			VerifyConnection: func(s tls.ConnectionState) (err error) {
				authority, err = pinned(s.PeerCertificates, want, server.Hostname())
				return err
			},
		},
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", hostPort(server))
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, ErrForeign):
		return nil, fmt.Errorf("the server at %s isn't the one that the hash %v is of; nothing was sent to it. Take URL and hash from one `portico token create`", server.Host, want)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return nil, fmt.Errorf("by this host's clock the server at %s shows a certificate that isn't good: %w; set this clock, or the server's, if it is wrong", server.Host, err)
	case err != nil:
		return nil, fmt.Errorf("reach the API server at %s: %w", server, err)
	}
	conn.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}), nil
}

func hostPort(server *url.URL) string {
	port := server.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(server.Hostname(), port)
}

// pinned finds the authority with one of the hashes among a server's certificates and checks
// that it vouches for the first, which is the server's own.
func pinned(chain []*x509.Certificate, want []Hash, host string) (*x509.Certificate, error) {
	for _, cert := range chain {
		if !cert.IsCA || !slices.Contains(want, HashOf(cert)) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			return nil, err
		}
		return cert, nil
	}
	return nil, ErrForeign
}

var errNoCertificate = errors.New("it is no certificate in PEM")

func parseCertificate(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errNoCertificate
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse a certificate: %w", err)
	}
	return cert, nil
}
