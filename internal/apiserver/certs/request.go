package certs

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"time"
)

// SignRequest issues the certificate that a request asks for, for one purpose and at
// most as long as life, where that isn't zero. Of the request it takes the name, the
// groups, the DNS names and the addresses; whether the asker may have those is its
// caller's to know.
func (a *Authority) SignRequest(request *x509.CertificateRequest, purpose x509.ExtKeyUsage, life time.Duration) ([]byte, error) {
	name := request.Subject.CommonName
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request for %s isn't signed by its own key: %w", name, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now, end := a.now(), a.LeafEnd()
	if asked := now.Add(life); life > 0 && asked.Before(end) {
		end = asked
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: request.Subject.Organization},
		DNSNames:     request.DNSNames, IPAddresses: request.IPAddresses,
		// Who renews when two thirds are over counts from the begin: a short life must
		// not be over by then.
		NotBefore: now.Add(-min(backdate, end.Sub(now)/3)), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{purpose},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, request.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
