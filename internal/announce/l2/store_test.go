package l2

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/announce/greet"
)

// LB-03: what was held is found by the next run of the same boot, and by no other.
func TestStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node", "announce.json")
	s := NewStore(file)
	if _, ok, err := s.load(); ok || err != nil {
		t.Fatalf("found something: %v, %v", ok, err)
	}
	claims := []greet.Claim{{Address: vip4, Term: 3, Since: time.Unix(1e9, 0).UTC()}}
	peers := []greet.Peer{{Name: "b", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}}
	s.setKeys([][]byte{[]byte("key")})
	s.setPeers(peers)
	s.setClaims(claims)
	if err := s.write(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info.Mode(), err)
	}
	was, ok, err := NewStore(file).load()
	if !ok || err != nil || !reflect.DeepEqual(was.Claims, claims) || !reflect.DeepEqual(was.Peers, peers) || string(was.Keys[0]) != "key" {
		t.Errorf("found %+v, %v, %v", was, ok, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for what, other := range map[string]string{"another boot": strings.Replace(string(text), bootID(), "x", 1), "damaged": string(text[:20])} {
		if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := NewStore(file).load(); ok || (err != nil) != (what == "damaged") {
			t.Errorf("%s: %v, %v", what, ok, err)
		}
	}
}
