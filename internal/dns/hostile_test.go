package dns

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"portico.dev/portico/internal/core/records"
)

// TestOddQueries: what isn't a plain question. DNS-07
func TestOddQueries(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	question := func() *dns.Msg { return new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA) }
	for _, tt := range []struct {
		name string
		make func() *dns.Msg
		want string
	}{
		{"class CHAOS", func() *dns.Msg { m := question(); m.Question[0].Qclass = dns.ClassCHAOS; return m }, "REFUSED"},
		{"class ANY", func() *dns.Msg { m := question(); m.Question[0].Qclass = dns.ClassANY; return m }, "REFUSED"},
		{"a response", func() *dns.Msg { m := question(); m.Response = true; return m }, "no reply"},
		{"update", func() *dns.Msg { m := question(); m.Opcode = dns.OpcodeUpdate; return m }, "NOTIMP"},
		{"notify", func() *dns.Msg { m := question(); m.Opcode = dns.OpcodeNotify; return m }, "NOTIMP"},
		{"no question", func() *dns.Msg { m := question(); m.Question = nil; return m }, "FORMERR"},
		{"two questions", func() *dns.Msg { m := question(); m.Question = append(m.Question, m.Question[0]); return m }, "FORMERR"},
		{"EDNS version 1", func() *dns.Msg { m := question(); m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1); return m }, "BADSIG"}, // 16 has two names
		{"two OPTs", func() *dns.Msg {
			m := question()
			m.SetEdns0(1232, false)
			m.Extra = append(m.Extra, m.Extra[0])
			return m
		}, "FORMERR"},
		{"OPT of a name", func() *dns.Msg { m := question(); m.SetEdns0(1232, false); m.Extra[0].Header().Name = "a."; return m }, "FORMERR"},
		{"an unknown option", func() *dns.Msg {
			m := question()
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"}}
			return m
		}, "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := exchange(t, s, tt.make(), guest, false)
			if picture(got) != tt.want {
				t.Errorf("got %s, want %s", picture(got), tt.want)
			}
		})
	}
}

// TestMalformed: bytes that are no message. DNS-07
func TestMalformed(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	good, err := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	for n := range good {
		reply, what := s.answer(make([]byte, 0, maxTCP), good[:n], guest, false, &q)
		switch {
		case n < headerSize && what != quiet:
			t.Errorf("%d bytes are answered", n)
		case n >= headerSize && (what != send || reply[3]&0xF != rcodeFormErr || len(reply) != headerSize || !bytes.Equal(reply[:2], good[:2])):
			t.Errorf("%d bytes: %x", n, reply)
		}
	}
	long := append(append([]byte(nil), good[:headerSize]...), 64)
	long = append(append(long, make([]byte, 64)...), 0, 0, 1, 0, 1)
	if reply, _ := s.answer(nil, long, guest, false, &q); reply[3]&0xF != rcodeFormErr {
		t.Errorf("a label of 64 bytes: %x", reply)
	}
	compressed := append(append([]byte(nil), good[:headerSize]...), 0xC0, 12, 0, 1, 0, 1)
	if reply, _ := s.answer(nil, compressed, guest, false, &q); reply[3]&0xF != rcodeFormErr {
		t.Errorf("a name that points to itself: %x", reply)
	}
}

// TestStrangers: no open resolver. DNS-07
func TestStrangers(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	for client, want := range map[string]string{
		stranger.String(): "REFUSED", "2001:db8::1": "REFUSED", "fe80::1%eth0": "REFUSED",
		"10.245.0.9": "NOERROR", "fd00:10:245::9": "NOERROR", "127.0.0.1": "NOERROR", "::1": "NOERROR",
	} {
		got := exchange(t, s, new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), netip.MustParseAddr(client), false)
		if dns.RcodeToString[got.Rcode] != want {
			t.Errorf("%s: %s, want %s", client, picture(got), want)
		}
	}
	if got := exchange(t, s, new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA), stranger, false); got.Rcode != dns.RcodeRefused {
		t.Errorf("foreign name: %s", picture(got))
	}
	var q query
	if _, what := s.answer(nil, make([]byte, headerSize), stranger, false, &q); what != quiet {
		t.Error("a stranger's rubbish is answered")
	}
}

// FuzzAnswer: any bytes give no reply or a well-formed one of a legal size.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.default.svc.cluster.local.", "alias2.default.svc.cluster.local.", "many.db.svc.cluster.local.", "96.10.in-addr.arpa.", "1-2-3-4.a.pod.cluster.local.", ".", "web.", "many.db.", "vm-a.default.vm."} {
		m := new(dns.Msg).SetQuestion(name, dns.TypeANY)
		wire, _ := m.Pack()
		f.Add(wire)
		wire, _ = m.SetEdns0(700, true).Pack()
		f.Add(wire)
	}
	cfg := testConfig()
	cfg.Search = true
	s := newServer(f, cfg)
	s.Replace(nil, cluster())
	s.ReplacePods([]*records.Pod{podAt("default", "a", "vm-a", guest.String())})
	out := make([]byte, 0, maxTCP)
	f.Fuzz(func(t *testing.T, msg []byte) {
		var q query
		reply, what := s.answer(out, msg, guest, false, &q)
		if what != send {
			return
		}
		if len(reply) > maxUDP || len(reply) > max(q.size, minUDP) {
			t.Fatalf("%d bytes, the client takes %d", len(reply), q.size)
		}
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil {
			t.Fatalf("reply can't be read: %v\n%x", err, reply)
		}
		if !m.Response || m.Id != uint16(msg[0])<<8|uint16(msg[1]) {
			t.Fatalf("header %v", m.MsgHdr)
		}
	})
}
