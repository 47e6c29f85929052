package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns/settings"
)

// Entries of people's own are answered, whether they lead to addresses, into the cluster
// or out of it; they outlive all Services and go when they are taken away. DNS-06
func TestOwnEntries(t *testing.T) {
	up := startUpstream(t, world(t))
	stub := startUpstream(t, world(t))
	cfg := testConfig()
	cfg.Upstreams = []netip.AddrPort{up.addr}
	s := newServer(t, cfg)
	zone, err := records.ParseName(cfg.Zone)
	if err != nil {
		t.Fatal(err)
	}
	set, problems := settings.Parse(map[string]string{
		"hosts":       "192.0.2.10 registry.example.org\n2001:db8::10 v6.example.org",
		"rewrites":    "in.example.org web.default.svc.cluster.local\nout.example.org www.example.com",
		"stubDomains": `{"example.com": ["` + stub.addr.String() + `"]}`,
	}, zone)
	if problems != nil {
		t.Fatal(problems)
	}
	if err := s.Configure(set); err != nil {
		t.Fatal(err)
	}
	s.Replace(nil, cluster())
	check := func(name string, typ uint16, want string) {
		t.Helper()
		if got := picture(exchange(t, s, new(dns.Msg).SetQuestion(name, typ), guest, false)); got != want {
			t.Errorf("%s %s: got\n%s\nwant\n%s", name, dns.TypeToString[typ], got, want)
		}
	}
	for range 2 {
		check("Registry.example.org.", dns.TypeA, "NOERROR\n Registry.example.org. 5 IN A 192.0.2.10")
		check("registry.example.org.", dns.TypeAAAA, "NOERROR\n ns: SOA of registry.example.org.")
		check("v6.example.org.", dns.TypeAAAA, "NOERROR\n v6.example.org. 5 IN AAAA 2001:db8::10")
		check("in.example.org.", dns.TypeA, "NOERROR\n in.example.org. 5 IN CNAME web.default.svc.cluster.local.\n web.default.svc.cluster.local. 5 IN A 10.96.0.20")
		check("in.example.org.", dns.TypeTXT, "NOERROR\n in.example.org. 5 IN CNAME web.default.svc.cluster.local.\n ns: SOA of cluster.local.")
		check("out.example.org.", dns.TypeA, "NOERROR\n host.example.com. 60 IN A 192.0.2.80\n out.example.org. 5 IN CNAME www.example.com.\n www.example.com. 300 IN CNAME host.example.com.")
		check("other.example.org.", dns.TypeA, "NXDOMAIN\n ns: SOA of example.com.") // upstream's word
		s.Replace(nil, cluster())
	}
	if up.queries.Load() == 0 || stub.queries.Load() == 0 {
		t.Errorf("upstream got %d queries, the stub domain's server %d", up.queries.Load(), stub.queries.Load())
	}
	if err := s.Configure(settings.Settings{}); err != nil {
		t.Fatal(err)
	}
	check("registry.example.org.", dns.TypeA, "NXDOMAIN\n ns: SOA of example.com.")
	s.Update([]agent.View{view(service("default", "late", "10.96.0.99"))})
	check("late.default.svc.cluster.local.", dns.TypeA, "NOERROR\n late.default.svc.cluster.local. 5 IN A 10.96.0.99")
}
