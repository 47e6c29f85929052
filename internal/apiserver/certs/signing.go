package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OpenSigningKey reads the key that signs service-account tokens from dir, or makes
// it on first use. It is none of the authority's: a token must never be good for a
// certificate. All API servers of one store need the same one.
func OpenSigningKey(dir string) (*ecdsa.PrivateKey, error) {
	file := filepath.Join(dir, "sa.key")
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return createSigningKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of service-account tokens: %w", err)
	}
	damaged := func(why string) error {
		return fmt.Errorf("the key of service-account tokens %s is damaged (%s); restore it from a backup, or remove it to start with a new one, which makes every token invalid", file, why)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, damaged("it is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, damaged(err.Error())
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, damaged("it is not an ECDSA key on P-256")
	}
	return key, nil
}

func createSigningKey(file string) (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the key of service-account tokens: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of service-account tokens: %w", err)
	}
	raw, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(file, raw, 0o600); err != nil {
		return nil, fmt.Errorf("write the key of service-account tokens: %w", err)
	}
	return key, nil
}
