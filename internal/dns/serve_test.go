package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/test/intime"
	"portico.dev/portico/test/journal"
)

// freePort calls listen until a port that is free by UDP, which it chooses, is free by TCP
// too: that may be some other program's, even as a client.
func freePort(t testing.TB, listen func() error) {
	t.Helper()
	var err error
	for range 20 {
		if err = listen(); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// listenAt is Listen at one address, whose port is 0.
func listenAt(ctx context.Context, t testing.TB, address string) (udp []net.PacketConn, tcp []net.Listener) {
	t.Helper()
	freePort(t, func() (err error) {
		udp, tcp, err = Listen(ctx, []netip.AddrPort{netip.MustParseAddrPort(address)})
		return err
	})
	return udp, tcp
}

// serve runs s on a loopback address until the test ends and gives the address.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	udp, tcp := listenAt(ctx, t, "127.0.0.1:0")
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, udp, tcp) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return udp[0].LocalAddr().String()
}

// upstream is a DNS server of miekg/dns on loopback, by UDP and TCP.
type upstream struct {
	addr    netip.AddrPort
	queries atomic.Int32
	tcp     atomic.Int32
}

func startUpstream(t testing.TB, handle dns.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{}
	var pc net.PacketConn
	var l net.Listener
	freePort(t, func() (err error) {
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			return err
		}
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err != nil {
			pc.Close()
		}
		return err
	})
	u.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	counted := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		if m.Question[0].Qtype == dns.TypeHINFO { // the loop probe
			return
		}
		u.queries.Add(1)
		if w.LocalAddr().Network() == "tcp" {
			u.tcp.Add(1)
		}
		handle(w, m)
	})
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // runs last
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: counted}, {Listener: l, Handler: counted}} {
		ready := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(ready) }
		wg.Go(func() { _ = srv.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { _ = srv.Shutdown() })
	}
	return u
}

func rr(t testing.TB, text string) dns.RR {
	r, err := dns.NewRR(text)
	if err != nil {
		t.Error(err)
	}
	return r
}

// world answers for the names of these tests.
func world(t testing.TB) dns.HandlerFunc {
	return func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		reply.RecursionAvailable = true
		q := m.Question[0]
		if opt := m.IsEdns0(); opt != nil {
			reply.SetEdns0(4096, opt.Do())
		}
		switch strings.ToLower(q.Name) {
		case "www.example.com.":
			if q.Qtype == dns.TypeA {
				reply.Answer = append(reply.Answer, rr(t, q.Name+" 300 IN CNAME host.example.com."), rr(t, "host.example.com. 60 IN A 192.0.2.80"))
			} else {
				reply.Ns = append(reply.Ns, rr(t, "example.com. 300 IN SOA ns.example.com. mail.example.com. 1 2 3 4 30"))
			}
		case "big.example.com.":
			for i := range 200 {
				reply.Answer = append(reply.Answer, rr(t, fmt.Sprintf("%s 60 IN A 192.0.2.%d", q.Name, i)))
			}
			if w.LocalAddr().Network() == "udp" {
				reply.Truncate(512)
			}
		default:
			reply.Rcode = dns.RcodeNameError
			reply.Ns = append(reply.Ns, rr(t, "example.com. 300 IN SOA ns.example.com. mail.example.com. 1 2 3 4 30"))
		}
		if err := w.WriteMsg(reply); err != nil {
			t.Errorf("upstream: %v", err)
		}
	}
}

func query1(t testing.TB, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	in, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%v by %s: %v", m.Question, network, err)
	}
	return in
}

// TestSockets asks by UDP and TCP over loopback. DNS-06, DNS-07
func TestSockets(t *testing.T) {
	up := startUpstream(t, world(t))
	cfg := testConfig()
	cfg.Upstreams = []netip.AddrPort{up.addr}
	s := newServer(t, cfg)
	addr := serve(t, s)
	s.Replace(nil, cluster())
	tests := []struct {
		network, name string
		typ           uint16
		want          string
	}{
		{"udp", "web.default.svc.cluster.local.", dns.TypeA, "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{"tcp", "web.default.svc.cluster.local.", dns.TypeA, "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{"udp", "wWw.eXample.com.", dns.TypeA, "NOERROR\n host.eXample.com. 60 IN A 192.0.2.80\n wWw.eXample.com. 300 IN CNAME host.eXample.com."},
		{"tcp", "WWW.example.com.", dns.TypeA, "NOERROR\n WWW.example.com. 300 IN CNAME host.example.com.\n host.example.com. 60 IN A 192.0.2.80"},
		{"udp", "www.example.com.", dns.TypeAAAA, "NOERROR\n ns: SOA of example.com."},
		{"udp", "no.example.com.", dns.TypeA, "NXDOMAIN\n ns: SOA of example.com."},
		{"udp", "1.2.0.192.in-addr.arpa.", dns.TypePTR, "NXDOMAIN\n ns: SOA of example.com."},
		{"udp", "big.example.com.", dns.TypeA, "NOERROR tc"},
		{
			"udp", "away.default.svc.cluster.local.", dns.TypeA,
			"NOERROR\n away.default.svc.cluster.local. 5 IN CNAME www.example.com.\n host.example.com. 60 IN A 192.0.2.80\n www.example.com. 300 IN CNAME host.example.com.",
		},
		{"tcp", "away.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR\n away.default.svc.cluster.local. 5 IN CNAME www.example.com.\n ns: SOA of example.com."},
	}
	for _, tt := range tests {
		for range 2 { // asked, and from the cache
			got := query1(t, tt.network, addr, new(dns.Msg).SetQuestion(tt.name, tt.typ))
			if picture(got) != tt.want {
				t.Errorf("%s %s: got\n%s\nwant\n%s", tt.network, tt.name, picture(got), tt.want)
			}
		}
	}
	// Each name and type once; "big" by UDP and again by TCP.
	if n := up.queries.Load(); n != 6 {
		t.Errorf("%d queries reached upstream, want 6", n)
	}
	if got := query1(t, "tcp", addr, new(dns.Msg).SetQuestion("big.example.com.", dns.TypeA)); len(got.Answer) != 200 {
		t.Errorf("big by TCP: %d answers", len(got.Answer))
	}
}

// TestManyOnOneConnection pipelines queries by TCP (RFC 7766 6.2.1.1).
func TestManyOnOneConnection(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	conn, err := net.Dial("tcp", serve(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all []byte
	for i := range 50 {
		m := new(dns.Msg).SetQuestion("many.db.svc.cluster.local.", dns.TypeA)
		m.Id = uint16(i)
		wire, _ := m.Pack()
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(wire))), wire...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	co := &dns.Conn{Conn: conn}
	for i := range 50 {
		m, err := co.ReadMsg()
		if err != nil || int(m.Id) != i || len(m.Answer) != 100 {
			t.Fatalf("reply %d: %v %v", i, m, err)
		}
	}
	// Something that is no query ends the conversation.
	if _, err := conn.Write([]byte{0, 3, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after rubbish: %v", err)
	}
}

// TestNoUpstream says so once. DNS-06
func TestNoUpstream(t *testing.T) {
	var log journal.Log
	cfg := testConfig()
	cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(cfg.ResolvConf, []byte("search example.com\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := newServer(t, cfg)
	s.Replace(nil, nil)
	for range 3 {
		if got := exchange(t, s, new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA), guest, false); picture(got) != "SERVFAIL" {
			t.Errorf("got %s", picture(got))
		}
	}
	if n := strings.Count(log.String(), "no upstream server"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}

// TestOwnAddress: a server that is named as its own upstream isn't asked, nor is
// the cluster IP that leads to it. DNS-06
func TestOwnAddress(t *testing.T) {
	intime.Within(t, time.Second, func(int) time.Duration { return ownAddress(t) })
}

func ownAddress(t *testing.T) (took time.Duration) {
	cfg := testConfig()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Upstreams = []netip.AddrPort{netip.MustParseAddrPort(pc.LocalAddr().String()), netip.MustParseAddrPort("10.96.0.10:53")}
	s := newServer(t, cfg)
	s.Replace(nil, cluster())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, []net.PacketConn{pc}, nil) }()
	start := time.Now()
	got := query1(t, "udp", pc.LocalAddr().String(), new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA))
	took = time.Since(start)
	if picture(got) != "SERVFAIL" {
		t.Errorf("%s after %v", picture(got), took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return took
}

// TestLoop: an upstream that asks us in turn is found and left out. DNS-06
func TestLoop(t *testing.T) {
	var log journal.Log
	var us atomic.Value
	loops := startRaw(t, func(msg []byte) []byte {
		// A relay: what it is asked, it asks our server.
		conn, err := net.Dial("udp", us.Load().(string))
		if err != nil {
			return nil
		}
		defer conn.Close()
		buf := make([]byte, 4096)
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := conn.Write(msg); err != nil {
			return nil
		}
		n, err := conn.Read(buf)
		if err != nil {
			return nil
		}
		return buf[:n]
	})
	good := startUpstream(t, world(t))
	cfg := testConfig()
	cfg.Upstreams = []netip.AddrPort{loops, good.addr}
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	var passed atomic.Int64
	cfg.Now = func() time.Time { return time.Unix(1_800_000_000+passed.Load(), 0) }
	s := newServer(t, cfg)
	us.Store(serve(t, s))
	s.Replace(nil, nil)
	want := "NOERROR\n host.example.com. 60 IN A 192.0.2.80\n www.example.com. 300 IN CNAME host.example.com."
	for _, name := range []string{"www.example.com.", "www.example.com."} {
		if got := query1(t, "udp", us.Load().(string), new(dns.Msg).SetQuestion(name, dns.TypeA)); picture(got) != want {
			t.Errorf("got %s", picture(got))
		}
	}
	if n := strings.Count(log.String(), "forwards to us"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	// Known now: another name goes straight to the good one, also when the time
	// is over for which a server that didn't answer stands behind the others.
	intime.Within(t, time.Second, func(n int) time.Duration {
		passed.Add(30)
		start := time.Now()
		got := query1(t, "udp", us.Load().(string), new(dns.Msg).SetQuestion(fmt.Sprintf("no%d.example.com.", n), dns.TypeA))
		if got.Rcode != dns.RcodeNameError {
			t.Errorf("got %s", picture(got))
		}
		return time.Since(start)
	})
}

// startRaw answers datagrams by a function, each in a goroutine.
func startRaw(t *testing.T, handle func([]byte) []byte) netip.AddrPort {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			msg := bytes.Clone(buf[:n])
			wg.Go(func() {
				if reply := handle(msg); reply != nil {
					_, _ = pc.WriteToUDPAddrPort(reply, from)
				}
			})
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// TestUpdatesUnderLoad changes records while clients ask: an answer is the old
// or the new one, never anything else.
func TestUpdatesUnderLoad(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	addr := serve(t, s)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		web := service("default", "web", "10.96.0.21")
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond): // one processor must serve both
			}
			if i%2 == 0 {
				s.Update([]agent.View{view(web)})
			} else {
				s.Update(cluster()[:1])
			}
		}
	})
	for range 500 {
		got := query1(t, "udp", addr, new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA))
		if len(got.Answer) != 1 {
			t.Fatal(picture(got))
		}
		if a := got.Answer[0].(*dns.A).A.String(); a != "10.96.0.20" && a != "10.96.0.21" {
			t.Fatal(a)
		}
	}
}

// TestListenBusy: the error says which address, and nothing stays open.
func TestListenBusy(t *testing.T) {
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, _, err = Listen(context.Background(), []netip.AddrPort{netip.MustParseAddrPort(busy.LocalAddr().String())})
	if err == nil || !strings.Contains(err.Error(), busy.LocalAddr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter(3, 2)
	a, b := guest, stranger
	var got []bool
	for _, client := range []netip.Addr{a, a, a, b, b} {
		got = append(got, l.enter(client))
	}
	if !slices.Equal(got, []bool{true, true, false, true, false}) {
		t.Errorf("2 for one, 3 for all: %v", got)
	}
	l.leave(a)
	if !l.enter(b) || len(l.clients) != 2 {
		t.Error("a place that was left is free")
	}
	l.leave(a)
	l.leave(b)
	l.leave(b)
	if l.total != 0 || len(l.clients) != 0 {
		t.Errorf("%+v stays", l.clients)
	}
}

// BenchmarkUDP is the whole way over loopback with 8 clients, theirs included.
func BenchmarkUDP(b *testing.B) {
	s := newServer(b, testConfig())
	s.Replace(nil, cluster())
	addr := serve(b, s)
	wire, _ := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA).SetEdns0(1232, false).Pack()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("udp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		buf := make([]byte, 2048)
		for pb.Next() {
			if _, err := conn.Write(wire); err != nil {
				b.Error(err)
				return
			}
			if _, err := conn.Read(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "qps")
}
