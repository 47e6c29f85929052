package dns

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// TLSPort is that of DNS over TLS (RFC 7858 3.1).
const TLSPort = 853

// ListenTLS opens a socket for DNS over TLS; it goes to Serve beside those of Listen. The
// certificate is asked for anew for each connection.
func ListenTLS(ctx context.Context, at netip.AddrPort, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (net.Listener, error) {
	l, err := listenTCP(ctx, at.String())
	if err != nil {
		return nil, fmt.Errorf("DNS: listen on %s by TLS: %w", at, err)
	}
	return tls.NewListener(l, &tls.Config{GetCertificate: certificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"dot"}}), nil
}

// lookAgain is how often at most the files of a certificate are looked at.
const lookAgain = time.Second

// KeyPair is a certificate in two files, which may be replaced while it is used.
type KeyPair struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger

	mu     sync.Mutex // guards the following
	looked time.Time
	seen   [2]stamp // of what was read last, or couldn't be
	pair   *tls.Certificate
}

// stamp tells one version of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// OpenKeyPair reads a certificate and its key in PEM.
func OpenKeyPair(certFile, keyFile string, now func() time.Time, log *slog.Logger) (*KeyPair, error) {
	k := &KeyPair{certFile: certFile, keyFile: keyFile, now: now, log: log, looked: now()}
	k.seen = k.stamps()
	return k, k.read()
}

func (k *KeyPair) stamps() (out [2]stamp) {
	for i, file := range []string{k.certFile, k.keyFile} {
		if info, err := os.Stat(file); err == nil {
			out[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return out
}

// read is called with mu held, or before anybody else has k.
func (k *KeyPair) read() error {
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return fmt.Errorf("DNS over TLS: read the certificate %s with the key %s: %w", k.certFile, k.keyFile, err)
	}
	k.pair = &pair
	return nil
}

// GetCertificate is for tls.Config. Files that are changed and can't be used, as when only
// one of them is new yet, leave the certificate as it was.
func (k *KeyPair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.looked) >= lookAgain {
		k.looked = now
		if fresh := k.stamps(); fresh != k.seen {
			k.seen = fresh
			if err := k.read(); err != nil {
				k.log.Warn("The certificate stays as it was", "error", err)
			}
		}
	}
	return k.pair, nil
}
