package bootstrap

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// A token goes to the server that was asked, and nowhere else.
func TestClientFollowsNoRedirect(t *testing.T) {
	var seen atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Store(true) }))
	defer elsewhere.Close()
	server := httptest.NewUnstartedServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	kube, err := Client(at, NewToken(), authority, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSettings(t.Context(), kube); err == nil || seen.Load() {
		t.Errorf("the redirect was followed: %v (error %v)", seen.Load(), err)
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{ // "": it is refused
		"https://192.0.2.2:6443":         "https://192.0.2.2:6443",
		"https://192.0.2.2:6443/":        "https://192.0.2.2:6443",
		"https://[2001:db8::2]:6443":     "https://[2001:db8::2]:6443",
		"https://api.example.test":       "https://api.example.test",
		"https://[fe80::1%25eth0]:6443":  "https://[fe80::1%25eth0]:6443",
		"http://192.0.2.2:6443":          "",
		"https://192.0.2.2:6443/cluster": "",
		"https://192.0.2.2:6443/?a=b":    "",
		"https://192.0.2.2:6443?":        "",
		"https://192.0.2.2:6443/#x":      "",
		"https://jane:pw@192.0.2.2:6443": "",
		"https://2001:db8::2:6443x":      "",
		"https://:6443":                  "",
		"192.0.2.2:6443":                 "",
		"":                               "",
	} {
		at, err := ParseServer(text)
		if (err == nil) != (want != "") || err == nil && at.String() != want {
			t.Errorf("%q: %v, %v, want %q", text, at, err, want)
		}
	}
}

// The identity is its owner's alone, also in a folder that was there.
func TestHomeIsPrivate(t *testing.T) {
	dir := t.TempDir()
	home := Home(filepath.Join(dir, "identity"))
	if err := os.Mkdir(string(home), 0o755); err != nil { //nolint:gosec // what it must put right
		t.Fatal(err)
	}
	if err := home.Create(Member{Server: "s", Node: "n"}, []byte("ca"), []byte("key")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(string(home), func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has the mode %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	link := Home(filepath.Join(dir, "link"))
	if err := os.Symlink(t.TempDir(), string(link)); err != nil {
		t.Fatal(err)
	}
	if err := link.Create(Member{Server: "s", Node: "n"}, []byte("ca"), []byte("key")); err == nil {
		t.Error("the key was written behind a link")
	}
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"https://192.0.2.2:6443", "https://[::1]:1/", "https://a@b", "https://a?", "//", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := ParseServer(text)
		if err != nil {
			return
		}
		again, err := ParseServer(at.String())
		if err != nil || *again != *at || at.User != nil || at.Path != "" {
			t.Errorf("%q reads as %v, and that as %v, %v", text, at, again, err)
		}
	})
}
