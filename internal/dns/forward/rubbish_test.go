package forward

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portico.dev/portico/test/intime"
)

// What isn't the answer is dropped, and the answer behind it counts: somebody who guesses
// the port, but not the id, can neither answer nor end the wait. DNS-06, DNS-07
func TestRubbishIsDropped(t *testing.T) {
	raw := func(packet func(id uint16) []byte) func(w dns.ResponseWriter, m *dns.Msg) {
		return func(w dns.ResponseWriter, m *dns.Msg) { _, _ = w.Write(packet(m.Id)) }
	}
	for name, spoof := range map[string]func(w dns.ResponseWriter, m *dns.Msg){
		"less than a header": raw(func(uint16) []byte { return []byte{1, 2, 3} }),
		"malformed, another id": raw(func(id uint16) []byte {
			return append([]byte{byte(^id >> 8), byte(^id), 0x80, 0, 0, 9, 0, 9, 0, 9, 0, 9}, 0xc0, 0x0c)
		}),
		"another id": func(w dns.ResponseWriter, m *dns.Msg) {
			reply := answers("a.test. 60 IN A 192.0.2.66")(m)
			reply.Id++
			_ = w.WriteMsg(reply)
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := respondRaw(t, func(w dns.ResponseWriter, m *dns.Msg) {
				spoof(w, m)
				_ = w.WriteMsg(answers("a.test. 60 IN A 192.0.2.1")(m))
			})
			f := newForwarder(t, Config{Servers: []netip.AddrPort{up.addr}})
			q := question(t, "a.test.", dns.TypeA)
			m := read(t, q, resolve(t, f, q), time.Now())
			if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.1" || up.queries.Load() != 1 {
				t.Errorf("after %d queries: %v", up.queries.Load(), m)
			}
		})
	}
}

// A broken server, which alone knows the id, isn't waited for: the next one is asked.
func TestMalformedAnswer(t *testing.T) {
	broken := respondRaw(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply, err := answers("a.test. 60 IN A 192.0.2.66")(m).Pack()
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(reply[:len(reply)-3])
	})
	good := respond(t, answers("a.test. 60 IN A 192.0.2.1"))
	q := question(t, "a.test.", dns.TypeA)
	intime.Within(t, tryFor-1, func(int) time.Duration {
		f := newForwarder(t, Config{Servers: []netip.AddrPort{broken.addr, good.addr}})
		begin := time.Now()
		m := read(t, q, resolve(t, f, q), time.Now())
		took := time.Since(begin)
		if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.1" {
			t.Errorf("after %v: %v", took, m)
		}
		return took
	})
}
