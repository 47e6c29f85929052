package bootstrap

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/apiserver/certs"
)

// A host believes a server only if it shows the authority with the hash, and that
// authority vouches for the server at this address; others get not one byte of it.
func TestFetchAuthority(t *testing.T) {
	dir := t.TempDir()
	ours, err := certs.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := certs.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	early, err := certs.Open(dir, func() time.Time { return time.Now().Add(3 * 24 * time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	hash, err := HashOfPEM(ours.PEM())
	if err != nil {
		t.Fatal(err)
	}
	here, elsewhere := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		signs *certs.Authority
		at    netip.Addr
		shows [][]byte // behind the server's certificate
		want  string   // in the error; "": it is believed
	}{
		"ours":                            {ours, here, [][]byte{ours.PEM()}, ""},
		"by a clock that is days ahead":   {early, here, [][]byte{ours.PEM()}, "set this clock"},
		"another cluster":                 {theirs, here, [][]byte{theirs.PEM()}, "isn't the one that the hash"},
		"no authority to be seen":         {ours, here, nil, "isn't the one that the hash"},
		"who shows ours, and has another": {theirs, here, [][]byte{ours.PEM(), theirs.PEM()}, "signed by unknown authority"},
		"ours, of another address":        {ours, elsewhere, [][]byte{ours.PEM()}, "192.0.2.1"},
	} {
		cert, key, err := c.signs.Server("server", nil, []netip.Addr{c.at})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(slices.Concat(append([][]byte{cert}, c.shows...)...), key)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was sent a request") }))
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		at, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		got, err := FetchAuthority(t.Context(), at, Hash{}, hash) // of several, one
		server.Close()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err == nil && !bytes.Equal(got, ours.PEM()) {
			t.Errorf("%s: another authority came back:\n%s", name, got)
		}
	}
	if _, err := FetchAuthority(t.Context(), &url.URL{Scheme: "https", Host: "127.0.0.1:1"}, hash); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("nobody there: %v", err)
	}
}
