package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/records"
)

var (
	guest    = netip.MustParseAddr("10.245.0.9")
	stranger = netip.MustParseAddr("192.0.2.66")
)

func testConfig() Config {
	return Config{
		Zone:      "cluster.local",
		Services:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")},
		Workloads: []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16")},
		AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:245::/64")},
		Now:       func() time.Time { return time.Unix(1_800_000_000, 0) },
	}
}

func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.forward.Close)
	return s
}

func service(namespace, name string, ips ...string) *catalog.Service {
	s := &catalog.Service{Name: types.NamespacedName{Namespace: namespace, Name: name}, Type: corev1.ServiceTypeClusterIP}
	for _, ip := range ips {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(ip))
	}
	return s
}

func view(s *catalog.Service, slices ...*catalog.Slice) agent.View {
	return agent.View{Name: s.Name, Service: s, Slices: slices}
}

// cluster is the cluster of these tests.
func cluster() []agent.View {
	web := service("default", "web", "10.96.0.20", "fd00:10:96::20")
	web.Ports = []catalog.ServicePort{{Name: "http", Protocol: catalog.TCP, Port: 80}}
	single := service("default", "single", "10.96.0.21")
	store := service("db", "store")
	store.Headless = true
	storeSlice := &catalog.Slice{
		Ports: []catalog.SlicePort{{Name: "sql", Protocol: catalog.TCP, Port: 15432}},
		Endpoints: []catalog.Endpoint{
			{Addr: netip.MustParseAddr("10.245.0.2"), Hostname: "store-0", Ready: true},
			{Addr: netip.MustParseAddr("10.245.0.3"), Ready: true},
			{Addr: netip.MustParseAddr("10.245.0.4"), Ready: false},
		},
	}
	idle := service("db", "idle")
	idle.Headless = true
	many := service("db", "many")
	many.Headless = true
	manySlice := &catalog.Slice{Ports: storeSlice.Ports}
	for i := range 100 {
		manySlice.Endpoints = append(manySlice.Endpoints, catalog.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 245, 1, byte(i)}), Ready: true})
	}
	views := []agent.View{
		view(web), view(single), view(store, storeSlice), view(idle), view(many, manySlice),
		view(service("kube-system", "kube-dns", "10.96.0.10")),
	}
	for name, target := range map[string]string{
		"alias": "web.default.svc.cluster.local", "alias2": "alias.default.svc.cluster.local", "dead": "nobody.default.svc.cluster.local",
		"tosrv": "_http._tcp.web.default.svc.cluster.local", "topod": "1-2-3-4.x.pod.cluster.local",
		"ring": "ring2.default.svc.cluster.local", "ring2": "ring.default.svc.cluster.local", "away": "www.example.com",
	} {
		s := service("default", name)
		s.Type, s.ExternalName = corev1.ServiceTypeExternalName, target
		views = append(views, view(s))
	}
	return views
}

// exchange gives a packed query to the server and unpacks the reply; nil when
// there is none.
func exchange(t testing.TB, s *Server, m *dns.Msg, client netip.Addr, tcp bool) *dns.Msg {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	reply, what := s.answer(make([]byte, 0, maxTCP), wire, client, tcp, &q)
	if what == ask {
		reply = s.askUpstream(context.Background(), make([]byte, 0, maxTCP), wire, client, tcp, &q)
	} else if what == quiet {
		return nil
	}
	out := new(dns.Msg)
	if err := out.Unpack(reply); err != nil {
		t.Fatalf("reply to %v can't be read: %v\n%x", m.Question, err, reply)
	}
	if out.Id != m.Id || !out.Response {
		t.Errorf("reply to %v: id %d, response %v", m.Question, out.Id, out.Response)
	}
	return out
}

// picture writes a reply in lines: code, then sections.
func picture(m *dns.Msg) string {
	if m == nil {
		return "no reply"
	}
	var b strings.Builder
	b.WriteString(dns.RcodeToString[m.Rcode])
	if m.Truncated {
		b.WriteString(" tc")
	}
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		var lines []string
		for _, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			text := strings.Join(strings.Fields(rr.String()), " ")
			if soa, ok := rr.(*dns.SOA); ok {
				text = "SOA of " + soa.Hdr.Name
			}
			lines = append(lines, " "+[]string{"", "ns: ", "+ "}[i]+text)
		}
		slices.Sort(lines) // the order of addresses is random
		for _, l := range lines {
			b.WriteString("\n" + l)
		}
	}
	return b.String()
}

// TestAnswers: question and answer. DNS-01, DNS-02, DNS-03, DNS-04, DNS-05
func TestAnswers(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	const (
		nodata   = "NOERROR\n ns: SOA of cluster.local."
		nxdomain = "NXDOMAIN\n ns: SOA of cluster.local."
	)
	tests := []struct{ name, typ, want string }{
		// DNS-01
		{"web.default.svc.cluster.local.", "A", "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{"web.default.svc.cluster.local.", "AAAA", "NOERROR\n web.default.svc.cluster.local. 5 IN AAAA fd00:10:96::20"},
		{"single.default.svc.cluster.local.", "AAAA", nodata},
		{"WEB.Default.svc.Cluster.LOCAL.", "A", "NOERROR\n WEB.Default.svc.Cluster.LOCAL. 5 IN A 10.96.0.20"},
		{"web.default.svc.cluster.local.", "MX", nodata},
		{"web.default.svc.cluster.local.", "CNAME", nodata},
		{"web.default.svc.cluster.local.", "ANY", "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{"nobody.default.svc.cluster.local.", "A", nxdomain},
		{"x.web.default.svc.cluster.local.", "A", nxdomain},
		{"web.default.cluster.local.", "A", nxdomain},
		{"www.example.com.default.svc.cluster.local.", "A", nxdomain},
		// The names above are there.
		{"default.svc.cluster.local.", "A", nodata},
		{"nobody.svc.cluster.local.", "A", nxdomain},
		{"svc.cluster.local.", "A", nodata},
		{"pod.cluster.local.", "A", nodata},
		{"cluster.local.", "A", nodata},
		{"_tcp.web.default.svc.cluster.local.", "SRV", nodata},
		{"cluster.local.", "NS", "NOERROR\n cluster.local. 5 IN NS ns.dns.cluster.local.\n + ns.dns.cluster.local. 5 IN A 10.96.0.10"},
		{"cluster.local.", "SOA", "NOERROR\n SOA of cluster.local."},
		{"web.default.svc.cluster.local.", "SOA", nodata},
		{"ns.dns.cluster.local.", "A", "NOERROR\n ns.dns.cluster.local. 5 IN A 10.96.0.10"},
		// DNS-02
		{"store.db.svc.cluster.local.", "A", "NOERROR\n store.db.svc.cluster.local. 5 IN A 10.245.0.2\n store.db.svc.cluster.local. 5 IN A 10.245.0.3"},
		{"store.db.svc.cluster.local.", "AAAA", nodata},
		{"store-0.store.db.svc.cluster.local.", "A", "NOERROR\n store-0.store.db.svc.cluster.local. 5 IN A 10.245.0.2"},
		{"10-245-0-3.store.db.svc.cluster.local.", "A", "NOERROR\n 10-245-0-3.store.db.svc.cluster.local. 5 IN A 10.245.0.3"},
		{"10-245-0-4.store.db.svc.cluster.local.", "A", nxdomain},
		{"idle.db.svc.cluster.local.", "A", nxdomain},
		// DNS-03
		{
			"_http._tcp.web.default.svc.cluster.local.", "SRV",
			"NOERROR\n _http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local." +
				"\n + web.default.svc.cluster.local. 5 IN A 10.96.0.20\n + web.default.svc.cluster.local. 5 IN AAAA fd00:10:96::20",
		},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", nxdomain},
		{
			"_sql._tcp.store.db.svc.cluster.local.", "SRV",
			"NOERROR\n _sql._tcp.store.db.svc.cluster.local. 5 IN SRV 0 50 15432 10-245-0-3.store.db.svc.cluster.local." +
				"\n _sql._tcp.store.db.svc.cluster.local. 5 IN SRV 0 50 15432 store-0.store.db.svc.cluster.local." +
				"\n + 10-245-0-3.store.db.svc.cluster.local. 5 IN A 10.245.0.3\n + store-0.store.db.svc.cluster.local. 5 IN A 10.245.0.2",
		},
		{"20.0.96.10.in-addr.arpa.", "PTR", "NOERROR\n 20.0.96.10.in-addr.arpa. 5 IN PTR web.default.svc.cluster.local."},
		{reverse("fd00:10:96::20"), "PTR", "NOERROR\n " + reverse("fd00:10:96::20") + " 5 IN PTR web.default.svc.cluster.local."},
		{"2.0.245.10.in-addr.arpa.", "PTR", "NOERROR\n 2.0.245.10.in-addr.arpa. 5 IN PTR store-0.store.db.svc.cluster.local."},
		{"99.0.96.10.in-addr.arpa.", "PTR", "NXDOMAIN\n ns: SOA of in-addr.arpa."},
		{"96.10.in-addr.arpa.", "PTR", "NOERROR\n ns: SOA of in-addr.arpa."},
		{reverse("fd00:10:96::99"), "PTR", "NXDOMAIN\n ns: SOA of ip6.arpa."},
		// DNS-04
		{"alias.default.svc.cluster.local.", "CNAME", "NOERROR\n alias.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local."},
		{
			"alias2.default.svc.cluster.local.", "A",
			"NOERROR\n alias.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local." +
				"\n alias2.default.svc.cluster.local. 5 IN CNAME alias.default.svc.cluster.local.\n web.default.svc.cluster.local. 5 IN A 10.96.0.20",
		},
		{"alias.default.svc.cluster.local.", "MX", "NOERROR\n alias.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.\n ns: SOA of cluster.local."},
		{"dead.default.svc.cluster.local.", "A", "NXDOMAIN\n dead.default.svc.cluster.local. 5 IN CNAME nobody.default.svc.cluster.local.\n ns: SOA of cluster.local."},
		{
			"tosrv.default.svc.cluster.local.", "SRV",
			"NOERROR\n _http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local." +
				"\n tosrv.default.svc.cluster.local. 5 IN CNAME _http._tcp.web.default.svc.cluster.local.",
		},
		{"topod.default.svc.cluster.local.", "A", "NOERROR\n 1-2-3-4.x.pod.cluster.local. 5 IN A 1.2.3.4\n topod.default.svc.cluster.local. 5 IN CNAME 1-2-3-4.x.pod.cluster.local."},
		{"ring.default.svc.cluster.local.", "A", "SERVFAIL"},
		{"away.default.svc.cluster.local.", "CNAME", "NOERROR\n away.default.svc.cluster.local. 5 IN CNAME www.example.com."},
		{"away.default.svc.cluster.local.", "A", "SERVFAIL"}, // nobody to ask
		{"1-2-3-4.default.pod.cluster.local.", "A", "NOERROR\n 1-2-3-4.default.pod.cluster.local. 5 IN A 1.2.3.4"},
		{"1-2-3-4.default.pod.cluster.local.", "AAAA", nodata},
		{"fd00--1.default.pod.cluster.local.", "AAAA", "NOERROR\n fd00--1.default.pod.cluster.local. 5 IN AAAA fd00::1"},
		{"web.default.pod.cluster.local.", "A", nxdomain},
		// DNS-05
		{"dns-version.cluster.local.", "TXT", "NOERROR\n dns-version.cluster.local. 5 IN TXT \"1.1.0\""},
		{"dns-version.cluster.local.", "A", nodata},
		// Others' names, and nobody to ask.
		{"www.example.com.", "A", "SERVFAIL"},
		{".", "NS", "SERVFAIL"},
		{"1.2.0.192.in-addr.arpa.", "PTR", "SERVFAIL"},
		{"cluster.local.", "AXFR", "REFUSED"},
	}
	for _, tt := range tests {
		t.Run(tt.name+" "+tt.typ, func(t *testing.T) {
			for _, edns := range []bool{false, true} {
				m := new(dns.Msg).SetQuestion(tt.name, dns.StringToType[tt.typ])
				if edns {
					m.SetEdns0(4096, true)
				}
				got := exchange(t, s, m, guest, false)
				if picture(got) != tt.want {
					t.Errorf("got\n%s\nwant\n%s", picture(got), tt.want)
				}
				opt := got.IsEdns0()
				if (opt != nil) != edns || edns && (!opt.Do() || opt.UDPSize() != ourUDP || opt.Version() != 0) {
					t.Errorf("OPT %v", opt)
				}
				if got.Question[0] != m.Question[0] {
					t.Errorf("question came back as %v", got.Question[0])
				}
				if !got.RecursionDesired || !got.RecursionAvailable {
					t.Errorf("flags %v", got.MsgHdr)
				}
			}
		})
	}
}

func reverse(addr string) string {
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return name
}

// TestBeforeFirstSync: the cluster's names fail, they are not denied. DNS-05
func TestBeforeFirstSync(t *testing.T) {
	s := newServer(t, testConfig())
	names := []string{"web.default.svc.cluster.local.", "nobody.cluster.local.", "cluster.local.", "20.0.96.10.in-addr.arpa.", "1-2-3-4.a.pod.cluster.local."}
	for _, name := range names {
		if got := picture(exchange(t, s, new(dns.Msg).SetQuestion(name, dns.TypeA), guest, false)); got != "SERVFAIL" {
			t.Errorf("%s: %s", name, got)
		}
	}
	s.Update(cluster())
	if s.Ready() {
		t.Error("ready without Replace")
	}
	s.Replace(nil, nil)
	if got := exchange(t, s, new(dns.Msg).SetQuestion(names[0], dns.TypeA), guest, false); got.Rcode != dns.RcodeNameError || !s.Ready() {
		t.Errorf("after Replace: %s, ready %v", picture(got), s.Ready())
	}
}

// TestUpdateIsImmediate: what Update took is answered when it returns, and the
// SOA's serial grows.
func TestUpdateIsImmediate(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, nil)
	web := service("default", "new", "10.96.0.50")
	question := new(dns.Msg).SetQuestion("new.default.svc.cluster.local.", dns.TypeA)
	serial := uint32(0)
	for i := range 5 {
		got := exchange(t, s, question, guest, false)
		if got.Rcode != dns.RcodeNameError {
			t.Fatalf("round %d: %s", i, picture(got))
		}
		if now := got.Ns[0].(*dns.SOA).Serial; now <= serial {
			t.Errorf("serial %d after %d", now, serial)
		} else {
			serial = now
		}
		s.Update([]agent.View{view(web)})
		if got := exchange(t, s, question, guest, false); len(got.Answer) != 1 {
			t.Fatalf("round %d: %s", i, picture(got))
		}
		s.Update([]agent.View{{Name: web.Name}})
	}
}

// TestTruncation: answers fit the client's size, and TCP has them whole. DNS-07
func TestTruncation(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	for _, tt := range []struct {
		name    string
		typ     uint16
		size    uint16
		tcp     bool
		answers int
		tc      bool
	}{
		{"many.db.svc.cluster.local.", dns.TypeA, 0, false, (512 - 12 - 31) / 16, true},
		{"many.db.svc.cluster.local.", dns.TypeA, 1232, false, (1232 - 12 - 31 - 11) / 16, true},
		{"many.db.svc.cluster.local.", dns.TypeA, 100, false, (512 - 12 - 31 - 11) / 16, true},
		{"many.db.svc.cluster.local.", dns.TypeA, 4096, false, 100, false},
		{"many.db.svc.cluster.local.", dns.TypeA, 65535, false, 100, false},
		{"many.db.svc.cluster.local.", dns.TypeA, 0, true, 100, false},
		{"_sql._tcp.many.db.svc.cluster.local.", dns.TypeSRV, 0, true, 100, false},
		{"_sql._tcp.many.db.svc.cluster.local.", dns.TypeSRV, 4096, false, -1, true}, // their sizes differ
	} {
		m := new(dns.Msg).SetQuestion(tt.name, tt.typ)
		limit := 512
		if tt.size > 0 {
			m.SetEdns0(tt.size, false)
			limit = max(512, int(tt.size))
		}
		wire, _ := m.Pack()
		var q query
		reply, _ := s.answer(make([]byte, 0, maxTCP), wire, guest, tt.tcp, &q)
		got := new(dns.Msg)
		if err := got.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if tt.answers < 0 && len(got.Answer) > 0 {
			tt.answers = len(got.Answer)
		}
		if len(got.Answer) != tt.answers || got.Truncated != tt.tc || !tt.tcp && len(reply) > limit {
			t.Errorf("%s, size %d, tcp %v: %d answers, truncated %v, %d bytes; want %d, %v", tt.name, tt.size, tt.tcp, len(got.Answer), got.Truncated, len(reply), tt.answers, tt.tc)
		}
		seen := map[string]bool{}
		for _, rr := range got.Answer {
			seen[rr.String()] = true
		}
		if len(seen) != len(got.Answer) {
			t.Errorf("%s: %d answers, %d different", tt.name, len(got.Answer), len(seen))
		}
	}
}

// TestOrderTurns: over some answers each address comes first. DNS-02
func TestOrderTurns(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	for _, name := range []string{"store.db.svc.cluster.local.", "_sql._tcp.store.db.svc.cluster.local."} {
		first := map[string]int{}
		for range 200 {
			typ := dns.TypeA
			if strings.HasPrefix(name, "_") {
				typ = dns.TypeSRV
			}
			first[exchange(t, s, new(dns.Msg).SetQuestion(name, typ), guest, false).Answer[0].String()]++
		}
		for rr, n := range first {
			if n < 50 || len(first) != 2 {
				t.Errorf("%s was first %d times of 200", rr, n)
			}
		}
	}
}

// TestAnswerAllocatesNothing guards the hot path.
func TestAnswerAllocatesNothing(t *testing.T) {
	cfg := testConfig()
	cfg.Search = true
	s := newServer(t, cfg)
	s.Replace(nil, cluster())
	s.ReplacePods([]*records.Pod{podAt("default", "a", "vm-a", guest.String())})
	for _, name := range []string{"web.", "20.0.96.10.in-addr.arpa.", "vm-a.default.vm.cluster.local.", "web.default.svc.cluster.local.", "nobody.default.svc.cluster.local.", "many.db.svc.cluster.local.", "alias.default.svc.cluster.local."} {
		wire, _ := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(1232, false).Pack()
		out := make([]byte, 0, maxTCP)
		var q query
		if n := testing.AllocsPerRun(100, func() { s.answer(out, wire, guest, false, &q) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// ALLOC-05: the reverse names of an added range are the cluster's as long as it is
// there; others are asked for the rest.
func TestServiceRanges(t *testing.T) {
	cfg := testConfig()
	s := newServer(t, cfg)
	s.Replace(nil, cluster())
	rcode := func(name string) int {
		return exchange(t, s, new(dns.Msg).SetQuestion(name, dns.TypePTR), guest, false).Rcode
	}
	const added, first, workload = "9.0.200.10.in-addr.arpa.", "9.0.96.10.in-addr.arpa.", "77.0.245.10.in-addr.arpa."
	for _, step := range []struct {
		ranges []netip.Prefix
		want   int // of added
	}{
		{cfg.Services, dns.RcodeServerFailure}, // there is nobody to ask
		{append(slices.Clone(cfg.Services), netip.MustParsePrefix("10.200.0.0/24")), dns.RcodeNameError},
		{cfg.Services, dns.RcodeServerFailure},
	} {
		s.SetServiceRanges(step.ranges)
		if got := rcode(added); got != step.want {
			t.Errorf("with %v: %s, want %s", step.ranges, dns.RcodeToString[got], dns.RcodeToString[step.want])
		}
		for _, name := range []string{first, workload} {
			if got := rcode(name); got != dns.RcodeNameError {
				t.Errorf("%s: %s", name, dns.RcodeToString[got])
			}
		}
	}
}
