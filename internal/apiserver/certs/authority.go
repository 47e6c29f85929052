package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	// LeafLife is how long a server's or client's certificate is valid.
	LeafLife = 365 * 24 * time.Hour
	// backdate is how far behind a host's clock may be.
	backdate = 24 * time.Hour
)

// firstYear is before this code was written: a host whose clock shows less has lost it,
// and an authority made then would have ended when the clock is right again.
var firstYear = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
	now  func() time.Time
	life time.Duration // of leaves
}

// Open reads the authority of dir, or makes it on first use. The key file is
// readable by its owner only.
func Open(dir string, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the certificate authority: %w", err)
	}
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	certPEM, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return create(certFile, keyFile, now)
	}
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the certificate authority's key: %w", err)
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.X509KeyPair(certPEM, keyPEM)
	}
	if err == nil && !pair.Leaf.IsCA {
		err = fmt.Errorf("ca.crt is the certificate of %q, none of an authority", pair.Leaf.Subject.CommonName)
	}
	if err != nil {
		return nil, damaged(dir, err)
	}
	if end := pair.Leaf.NotAfter; !now().Before(end) {
		return nil, fmt.Errorf("the certificate authority in %s ended on %s and this host's clock shows %s; set the clock if it is wrong, or remove ca.crt and ca.key there to start a new one, which makes every kubeconfig invalid",
			dir, end.Format(time.DateOnly), now().UTC().Format(time.DateOnly))
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key in %s can't sign", keyFile)
	}
	return &Authority{cert: pair.Leaf, key: signer, pem: certPEM, now: now, life: LeafLife}, nil
}

func damaged(dir string, err error) error {
	return fmt.Errorf("the certificate authority in %s is damaged (%w); restore both files from a backup, or remove both to start a new one, which makes every kubeconfig invalid", dir, err)
}

// WithLeafLife is the same authority whose leaves live so long, for tests.
func (a *Authority) WithLeafLife(life time.Duration) *Authority {
	short := *a
	short.life = life
	return &short
}

// End is when the authority, and all that it signed, ends.
func (a *Authority) End() time.Time { return a.cert.NotAfter }

// LeafEnd is when a certificate that is issued now ends: never after the authority.
func (a *Authority) LeafEnd() time.Time {
	end := a.now().Add(a.life)
	if a.cert.NotAfter.Before(end) {
		return a.cert.NotAfter
	}
	return end
}

// ReadEnd reads from dir when its authority ends.
func ReadEnd(dir string) (time.Time, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return time.Time{}, fmt.Errorf("read the certificate authority: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return time.Time{}, damaged(dir, errors.New("ca.crt is not PEM"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, damaged(dir, err)
	}
	return cert.NotAfter, nil
}

// oldKey is the key that is there although the certificate isn't: of a first start that
// was cut short, or of a lost certificate. A new one for it keeps what was signed good.
func oldKey(keyFile string) (crypto.Signer, []byte, error) {
	raw, err := os.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the certificate authority's key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, nil, damaged(filepath.Dir(keyFile), errors.New("ca.crt is missing, and ca.key is not PEM"))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, damaged(filepath.Dir(keyFile), fmt.Errorf("ca.crt is missing, and ca.key: %w", err))
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("the key in %s can't sign", keyFile)
	}
	return signer, raw, nil
}

// create writes the key before the certificate: what Open finds is whole.
func create(certFile, keyFile string, now func() time.Time) (*Authority, error) {
	if now().Before(firstYear) {
		return nil, fmt.Errorf("this host's clock shows %s, and a certificate authority made now would end too soon; set the clock and start again", now().UTC().Format(time.DateOnly))
	}
	key, keyPEM, err := oldKey(keyFile)
	if err != nil {
		return nil, err
	}
	if key == nil {
		fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the certificate authority's key: %w", err)
		}
		if keyPEM, err = encodeKey(fresh); err != nil {
			return nil, err
		}
		key = fresh
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "portico"},
		NotBefore: now().Add(-backdate), NotAfter: now().Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate authority: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(keyFile, keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("write the certificate authority's key: %w", err)
	}
	if err := writeFile(certFile, certPEM, 0o644); err != nil {
		return nil, fmt.Errorf("write the certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back the certificate authority: %w", err)
	}
	return &Authority{cert: cert, key: key, pem: certPEM, now: now, life: LeafLife}, nil
}

// writeFile makes a file that is whole or absent, also after a power cut: one that is
// half written would be taken for a damaged authority at the next start.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // absent after the rename
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return a.pem }

// Pool holds the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Server issues a certificate for a TLS server with these names and addresses.
func (a *Authority) Server(name string, dns []string, addrs []netip.Addr) (certPEM, keyPEM []byte, err error) {
	ips := make([]net.IP, len(addrs))
	for i, addr := range addrs {
		ips[i] = addr.AsSlice()
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// Client issues a certificate that authenticates user, a member of groups.
func (a *Authority) Client(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *Authority) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", template.Subject.CommonName, err)
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter = a.now().Add(-backdate), a.LeafEnd()
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSerial is a random number of 127 bits: RFC 5280, 4.1.2.2 wants it positive and
// at most 20 octets.
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial, nil
}
