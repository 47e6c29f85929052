package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var today = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func open(t *testing.T, dir string, now time.Time) *Authority {
	t.Helper()
	a, err := Open(dir, at(now))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, raw []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("no PEM: %q", raw)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// OPS-05: a host whose clock is some hours behind accepts what was issued just now.
func TestBackdated(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir(), today)
	cert, _, err := a.Client("jane", "developers")
	if err != nil {
		t.Fatal(err)
	}
	_, err = parse(t, cert).Verify(x509.VerifyOptions{
		Roots: a.Pool(), CurrentTime: today.Add(-12 * time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		t.Error(err)
	}
}

// OPS-05: nothing outlives the authority, and its end can be known before.
func TestAuthorityEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := open(t, dir, today).End()
	if end.Sub(today) != authorityLife {
		t.Errorf("it lives %v", end.Sub(today))
	}
	if read, err := ReadEnd(dir); err != nil || !read.Equal(end) {
		t.Errorf("read back: %v %v", read, err)
	}
	late := open(t, dir, end.Add(-48*time.Hour))
	if !late.LeafEnd().Equal(end) {
		t.Errorf("a leaf ends on %v, the authority on %v", late.LeafEnd(), end)
	}
	cert, _, err := late.Client("jane")
	if err != nil || !parse(t, cert).NotAfter.Equal(end) {
		t.Errorf("a leaf ends on %v, %v", parse(t, cert).NotAfter, err)
	}
	_, err = Open(dir, at(end))
	for _, want := range []string{"ended on " + end.Format(time.DateOnly), "set the clock", "remove ca.crt and ca.key", dir} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("after its end: %v, want %q in it", err, want)
		}
	}
}

func TestLostClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Open(dir, at(time.Unix(100, 0))); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// OPS-05: damaged files are named with the remedy, whatever is wrong with them, and left
// as they are.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	good := t.TempDir()
	a := open(t, good, today)
	leaf, leafKey, err := a.Client("jane")
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(good, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	cert, key := read("ca.crt"), read("ca.key")
	for name, files := range map[string]struct{ cert, key []byte }{
		"empty certificate": {[]byte{}, key}, "empty key": {cert, []byte{}}, "half a certificate": {cert[:len(cert)/2], key},
		"half a key": {cert, key[:len(key)/2]}, "no key": {cert, nil}, "another's key": {cert, leafKey}, "no authority": {leaf, leafKey},
		"no certificate, half a key": {nil, key[:len(key)/2]}, "zeros": {make([]byte, 300), make([]byte, 300)},
	} {
		dir := t.TempDir()
		for file, content := range map[string][]byte{"ca.crt": files.cert, "ca.key": files.key} {
			if content == nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Open(dir, at(today))
		if err == nil || !strings.Contains(err.Error(), dir+" is damaged") || !strings.Contains(err.Error(), "restore both files from a backup, or remove both") {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(filepath.Join(dir, "ca.key")); !bytes.Equal(now, files.key) {
			t.Errorf("%s: the key was changed", name)
		}
	}
}

// A certificate that is lost, or wasn't written yet, is made anew for the key that is
// there: what was signed stays good.
func TestLostCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, _, err := open(t, dir, today).Client("jane")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, today)
	_, err = parse(t, cert).Verify(x509.VerifyOptions{Roots: again.Pool(), CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		t.Error(err)
	}
}
