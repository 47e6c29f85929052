package dns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portico.dev/portico/test/intime"
	"portico.dev/portico/test/journal"
)

// The longest legal name is answered, one that is longer and one that ends too early
// aren't. DNS-07
func TestNamesAtTheLimits(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	zone := "\x07cluster\x05local\x00"
	name := func(labels ...int) []byte {
		var b []byte
		for _, n := range labels {
			b = append(append(b, byte(n)), bytes.Repeat([]byte{'A'}, n)...)
		}
		return append(b, zone...)
	}
	for _, tt := range []struct {
		what string
		name []byte
		code uint16
	}{
		{"255 bytes", name(63, 63, 63, 47), rcodeNXDomain},
		{"256 bytes", name(63, 63, 63, 48), rcodeFormErr},
		{"a label of 64 bytes", name(64), rcodeFormErr},
		{"an empty label, where the name ends", append([]byte("\x03web\x00\x07default"), zone...), rcodeRefused}, // what follows is read as type and class
		{"a pointer to itself", []byte{0xC0, headerSize}, rcodeFormErr},
		{"a pointer behind a label", []byte{1, 'a', 0xC0, headerSize}, rcodeFormErr},
		{"two pointers at each other", []byte{0xC0, headerSize + 2, 0xC0, headerSize}, rcodeFormErr},
		{"the root", []byte{0}, rcodeServFail}, // nobody is there to ask
	} {
		msg := make([]byte, headerSize)
		binary.BigEndian.PutUint16(msg[4:], 1)
		msg = append(append(msg, tt.name...), 0, 1, 0, 1)
		var q query
		reply, what := s.answer(make([]byte, 0, maxTCP), msg, guest, false, &q)
		if what == ask {
			reply = s.askUpstream(t.Context(), make([]byte, 0, maxTCP), msg, guest, false, &q)
		}
		if what == quiet || uint16(reply[3]&0xF) != tt.code {
			t.Errorf("%s: got %x, want code %d", tt.what, reply, tt.code)
		}
		if tt.code == rcodeNXDomain && !bytes.Contains(reply, tt.name) {
			t.Errorf("%s: the name's letters changed: %x", tt.what, reply)
		}
	}
}

// Names that nobody knows, as fast as a client can send them, while upstream is silent:
// Services' names are answered all the same, to that client and to others. DNS-06
func TestFloodOfUnknownNames(t *testing.T) {
	cfg := testConfig()
	cfg.Upstreams = []netip.AddrPort{startRaw(t, func([]byte) []byte { return nil })}
	s := newServer(t, cfg)
	s.Replace(nil, cluster())
	addr := serve(t, s)
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 3000 {
		wire, err := new(dns.Msg).SetQuestion(fmt.Sprintf("flood-%d.example.com.", i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(wire); err != nil {
			t.Fatal(err)
		}
		if i%500 == 499 {
			got := query1(t, "udp", addr, new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA))
			if len(got.Answer) != 1 {
				t.Fatalf("after %d: %s", i, picture(got))
			}
		}
	}
	s.workers.mu.Lock()
	defer s.workers.mu.Unlock()
	if s.workers.total > maxWorkersPerClient {
		t.Errorf("%d questions of one client wait for upstream", s.workers.total)
	}
}

// A resolv.conf that can't be read: Services answer, the rest fails at once, and the log
// says why. DNS-06
func TestUnreadableResolvConf(t *testing.T) {
	intime.Within(t, time.Second, func(int) time.Duration { return unreadableResolvConf(t) })
}

func unreadableResolvConf(t *testing.T) (took time.Duration) {
	var log journal.Log
	cfg := testConfig()
	cfg.ResolvConf = filepath.Join(t.TempDir(), "nowhere", "resolv.conf")
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := newServer(t, cfg)
	s.Replace(nil, cluster())
	begin := time.Now()
	for name, want := range map[string]string{
		"www.example.com.": "SERVFAIL", "web.default.svc.cluster.local.": "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20",
	} {
		if got := picture(exchange(t, s, new(dns.Msg).SetQuestion(name, dns.TypeA), guest, false)); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	took = time.Since(begin)
	if !strings.Contains(log.String(), "no such file or directory") {
		t.Errorf("the log says: %s", log.String())
	}
	return took
}
