package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/records"
)

func podAt(namespace, name, machine, addr string) *records.Pod {
	return &records.Pod{
		Name: types.NamespacedName{Namespace: namespace, Name: name}, Machine: machine, Addrs: []netip.Addr{netip.MustParseAddr(addr)},
	}
}

// TestSearch: a known guest finds a Service by its short name with one question, whoever
// isn't known asks outside. DNS-06
func TestSearch(t *testing.T) {
	up := startUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		reply.Answer = []dns.RR{rr(t, m.Question[0].Name+" 60 IN A 198.51.100.9")}
		_ = w.WriteMsg(reply)
	})
	cfg := testConfig()
	cfg.Search, cfg.Upstreams = true, []netip.AddrPort{up.addr}
	s := newServer(t, cfg)
	inDefault, inDB, unknown := guest, netip.MustParseAddr("10.245.0.2"), netip.MustParseAddr("10.245.0.77")
	ask := func(client netip.Addr, name, typ string) string {
		return picture(exchange(t, s, new(dns.Msg).SetQuestion(name, dns.StringToType[typ]), client, false))
	}
	if got := ask(inDefault, "web.", "A"); got != "SERVFAIL" {
		t.Errorf("before the first sync: %s", got)
	}
	if got := ask(inDefault, "www.example.com.", "A"); got != "NOERROR\n www.example.com. 60 IN A 198.51.100.9" {
		t.Errorf("an outside name before the first sync: %s", got)
	}
	s.Replace(nil, cluster())
	s.ReplacePods([]*records.Pod{podAt("default", "a", "vm-a", inDefault.String()), podAt("db", "b", "", inDB.String())})
	const outside = " 60 IN A 198.51.100.9"
	for _, tt := range []struct {
		client          netip.Addr
		name, typ, want string
	}{
		{inDefault, "web.", "A", "NOERROR\n web. 5 IN CNAME web.default.svc.cluster.local.\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{inDefault, "WEB.", "AAAA", "NOERROR\n WEB. 5 IN CNAME web.default.svc.cluster.local.\n web.default.svc.cluster.local. 5 IN AAAA fd00:10:96::20"},
		{inDefault, "single.", "AAAA", "NOERROR\n single. 5 IN CNAME single.default.svc.cluster.local.\n ns: SOA of cluster.local."},
		{inDefault, "web.", "CNAME", "NOERROR\n web. 5 IN CNAME web.default.svc.cluster.local."},
		{inDefault, "store.db.", "A", "NOERROR\n store.db. 5 IN CNAME store.db.svc.cluster.local.\n store.db.svc.cluster.local. 5 IN A 10.245.0.2\n store.db.svc.cluster.local. 5 IN A 10.245.0.3"},
		{
			inDefault, "_http._tcp.web.", "SRV",
			"NOERROR\n _http._tcp.web. 5 IN CNAME _http._tcp.web.default.svc.cluster.local." +
				"\n _http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.",
		},
		{inDefault, "alias.", "A", "NOERROR\n alias. 5 IN CNAME alias.default.svc.cluster.local.\n alias.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{inDefault, "away.", "A", "NOERROR\n away. 5 IN CNAME away.default.svc.cluster.local.\n away.default.svc.cluster.local. 5 IN CNAME www.example.com.\n www.example.com." + outside},
		{inDefault, "vm-a.default.vm.", "A", "NOERROR\n vm-a.default.vm. 5 IN CNAME vm-a.default.vm.cluster.local.\n vm-a.default.vm.cluster.local. 5 IN A " + guest.String()},
		{inDB, "web.", "A", "NOERROR\n web." + outside},
		{inDB, "web.default.", "A", "NOERROR\n web.default. 5 IN CNAME web.default.svc.cluster.local.\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"},
		{unknown, "web.", "A", "NOERROR\n web." + outside},
		{inDefault, "www.example.com.", "A", "NOERROR\n www.example.com." + outside},
		{stranger, "web.", "A", "REFUSED"},
	} {
		if got := ask(tt.client, tt.name, tt.typ); got != tt.want {
			t.Errorf("%s asks for %s %s:\n%s\nwant\n%s", tt.client, tt.name, tt.typ, got, tt.want)
		}
	}
	s.UpdatePod(types.NamespacedName{Namespace: "default", Name: "a"}, nil)
	if got := ask(inDefault, "single.", "A"); got != "NOERROR\n single."+outside {
		t.Errorf("from where there is no pod any more: %s", got)
	}
}

// TestMachineNames: the name of a machine from the first question to the last.
func TestMachineNames(t *testing.T) {
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	ask := func(name, typ string) string {
		return picture(exchange(t, s, new(dns.Msg).SetQuestion(name, dns.StringToType[typ]), guest, false))
	}
	const name = "vm-a.default.vm.cluster.local."
	if got := ask(name, "A"); got != "SERVFAIL" {
		t.Errorf("before the pods are known: %s", got)
	}
	s.ReplacePods([]*records.Pod{podAt("default", "a", "vm-a", "10.245.0.9")})
	for _, tt := range [][3]string{
		{name, "A", "NOERROR\n " + name + " 5 IN A 10.245.0.9"},
		{name, "AAAA", "NOERROR\n ns: SOA of cluster.local."},
		{"x.default.vm.cluster.local.", "A", "NXDOMAIN\n ns: SOA of cluster.local."},
		{"default.vm.cluster.local.", "A", "NOERROR\n ns: SOA of cluster.local."},
		{"9.0.245.10.in-addr.arpa.", "PTR", "NOERROR\n 9.0.245.10.in-addr.arpa. 5 IN PTR " + name},
	} {
		if got := ask(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s %s:\n%s\nwant\n%s", tt[0], tt[1], got, tt[2])
		}
	}
	s.UpdatePod(types.NamespacedName{Namespace: "default", Name: "a"}, nil)
	if got := ask(name, "A"); got != "NXDOMAIN\n ns: SOA of cluster.local." {
		t.Errorf("after its end: %s", got)
	}
}
