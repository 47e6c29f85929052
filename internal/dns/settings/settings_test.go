package settings

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"portico.dev/portico/internal/core/records"
)

func zone(t testing.TB) records.Name {
	n, err := records.ParseName("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is good is used, and each line that isn't has a sentence of its own. DNS-06
func TestParse(t *testing.T) {
	got, problems := Parse(map[string]string{
		"hosts": `
# address          names
192.0.2.10         Registry.example.com mirror.example.com.
192.0.2.10         registry.example.com
2001:db8::10       registry.example.com # the same by IPv6
here               a.example.com
192.0.2.11
192.0.2.12         web.default.svc.cluster.local b.example.com
192.0.2.13         13.2.0.192.in-addr.arpa
`,
		"rewrites": `
old.example.com    web.default.svc.cluster.local
mirror.example.com old.example.com
self.example.com   self.example.com
one.example.com
bad..example.com   old.example.com
`,
		"stubDomains":         `{"corp.example.com": ["192.0.2.53", "[2001:db8::53]:5353"], "x.cluster.local": ["192.0.2.53"], "none.example.com": [], "word.example.com": ["dns"]}`,
		"upstreamNameservers": `["192.0.2.54"]`,
		"hostz":               "",
	}, zone(t))
	var lines []string
	for _, o := range got.Own {
		lines = append(lines, o.String())
	}
	if text, want := strings.Join(lines, "\n"), `old.example.com. CNAME web.default.svc.cluster.local.
mirror.example.com. A 192.0.2.10
registry.example.com. A 192.0.2.10
registry.example.com. AAAA 2001:db8::10`; text != want {
		t.Errorf("own entries: got\n%s\nwant\n%s", text, want)
	}
	if text := fmt.Sprint(got.Stubs, got.Upstreams); text != "map[corp.example.com.:[192.0.2.53:53 [2001:db8::53]:5353]] [192.0.2.54:53]" {
		t.Errorf("servers: %s", text)
	}
	want := []string{
		`hosts, line 6: "here a.example.com" isn't an address with names`,
		`hosts, line 7: "192.0.2.11" isn't an address with names`,
		`hosts, line 8: web.default.svc.cluster.local is in the cluster's own domain; make a Service`,
		`hosts, line 9: 13.2.0.192.in-addr.arpa is a reverse name`,
		`the key "hostz" is unknown; there are hosts, rewrites, stubDomains and upstreamNameservers`,
		`rewrites, line 3: mirror.example.com has an entry already`,
		`rewrites, line 4: self.example.com leads to itself`,
		`rewrites, line 5: "one.example.com" isn't a name with another`,
		`rewrites, line 6: "bad..example.com": not a domain name`,
		`stubDomains: none.example.com has no server`,
		`stubDomains: "dns" is no server's address`,
		`stubDomains: x.cluster.local is in the cluster's own domain`,
	}
	for i, err := range problems {
		if i >= len(want) || !strings.HasPrefix(err.Error(), want[i]) {
			t.Errorf("problem %d: %v", i, err)
		}
	}
	if len(problems) != len(want) {
		t.Errorf("%d problems, want %d", len(problems), len(want))
	}
}

func TestParseNotLists(t *testing.T) {
	for key, value := range map[string]string{"stubDomains": "- a", "upstreamNameservers": "a: b"} {
		if _, problems := Parse(map[string]string{key: value}, zone(t)); len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), key+": it wants ") {
			t.Errorf("%s: %v", key, problems)
		}
	}
	if got, problems := Parse(nil, zone(t)); len(problems) > 0 || len(got.Own)+len(got.Stubs)+len(got.Upstreams) > 0 {
		t.Errorf("no ConfigMap: %v, %v", got, errors.Join(problems...))
	}
}

// What people write never crashes the server, and never reaches into the zone.
func FuzzParse(f *testing.F) {
	f.Add("192.0.2.10 a.example.com b", "a b\nc d", `{"a":["192.0.2.1"]}`)
	f.Add("::1%lo x", ". .", "a: [b")
	f.Add("::ffff:192.0.2.1 A.B", "a.b cluster.local", "x: ['::1']")
	f.Fuzz(func(t *testing.T, hosts, rewrites, stubs string) {
		z := zone(t)
		got, _ := Parse(map[string]string{"hosts": hosts, "rewrites": rewrites, "stubDomains": stubs}, z)
		table, err := records.NewZone(records.Config{Domain: "cluster.local"})
		if err != nil {
			t.Fatal(err)
		}
		table.Own(got.Own)
		for _, o := range got.Own {
			if o.Name.IsUnder(z) || o.Name.IsReverse() {
				t.Errorf("an entry for %s", o.Name)
			}
			if r := table.Table(1).Find([]byte(o.Name)); !r.Ours || r.Node == "" {
				t.Errorf("%s isn't found", o.Name)
			}
		}
	})
}
