package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"portico.dev/portico/bench/apiclient"
)

// Authority signs certificates of servers and clients in its folder, with the same kind of
// key as Portico's.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one in an existing folder.
func NewAuthority(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	a.cert = template
	if err := a.write("ca", template, a.key); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(a.Path("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("make the authority: %w", err)
	}
	block, _ := pem.Decode(raw)
	a.cert, err = x509.ParseCertificate(block.Bytes)
	return a, err
}

// Path is that of a file of its.
func (a *Authority) Path(file string) string { return filepath.Join(a.dir, file) }

// Issue writes name.crt and name.key, good for servers on loopback and for clients.
func (a *Authority) Issue(name, user string, groups ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", name, err)
	}
	return a.write(name, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: user, Organization: groups},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}, key)
}

func (a *Authority) write(name string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the key of %s: %w", name, err)
	}
	if err := os.WriteFile(a.Path(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(a.Path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600)
}

// access is how the administrator reaches the server at address.
func (a *Authority) access(address, name string) (apiclient.Access, error) {
	out := apiclient.Access{Address: address}
	for file, at := range map[string]*[]byte{"ca.crt": &out.CA, name + ".crt": &out.Cert, name + ".key": &out.Key} {
		raw, err := os.ReadFile(a.Path(file))
		if err != nil {
			return apiclient.Access{}, fmt.Errorf("read the administrator's certificate: %w", err)
		}
		*at = raw
	}
	return out, nil
}
