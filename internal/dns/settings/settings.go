package settings

import (
	"bufio"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/core/records"
)

// Namespace and Name are where the ConfigMap is.
const (
	Namespace = "kube-system"
	Name      = "portico-dns"
)

// The keys. The last two are those that kube-dns' own ConfigMap had, in its notation.
const (
	keyHosts     = "hosts"
	keyRewrites  = "rewrites"
	keyStubs     = "stubDomains"
	keyUpstreams = "upstreamNameservers"
)

// dnsPort is that of a server which is named without one.
const dnsPort = 53

// Settings are the ConfigMap's contents. Nothing at all is what there is without it.
type Settings struct {
	// Own are names outside of the cluster's zone with addresses or an alias.
	Own []records.Owner
	// Upstreams answer for names outside; none: the node's own.
	Upstreams []netip.AddrPort
	// Stubs answer for names in some domains.
	Stubs map[string][]netip.AddrPort
}

// Parse reads the ConfigMap's data. zone is the cluster's, whose names are Services' and
// can't be set here.
func Parse(data map[string]string, zone records.Name) (Settings, []error) {
	p := &parser{zone: zone, own: map[records.Name]*records.Owner{}}
	for _, key := range slices.Sorted(maps.Keys(data)) { // hosts before rewrites
		switch value := data[key]; key {
		case keyHosts:
			p.lines(key, value, p.host)
		case keyRewrites:
			p.lines(key, value, p.rewrite)
		case keyStubs:
			p.stubs(value)
		case keyUpstreams:
			p.upstreams(value)
		default:
			p.problem("the key %q is unknown; there are %s, %s, %s and %s", key, keyHosts, keyRewrites, keyStubs, keyUpstreams)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.own)) {
		p.out.Own = append(p.out.Own, *p.own[name])
	}
	return p.out, p.problems
}

type parser struct {
	zone     records.Name
	own      map[records.Name]*records.Owner
	out      Settings
	problems []error
}

func (p *parser) problem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf(format, args...))
}

// lines reads a file of lines with fields, in which "#" begins a comment (hosts(5)).
func (p *parser) lines(key, value string, take func(fields []string) error) {
	number := 0
	for lines := bufio.NewScanner(strings.NewReader(value)); lines.Scan(); {
		number++
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if err := take(fields); err != nil {
			p.problem("%s, line %d: %w", key, number, err)
		}
	}
}

// host takes "ADDRESS NAME...".
func (p *parser) host(fields []string) error {
	a, err := netip.ParseAddr(fields[0])
	if err != nil || a.Zone() != "" || len(fields) < 2 {
		return fmt.Errorf("%q isn't an address with names; write it like 192.0.2.10 registry.example.com", strings.Join(fields, " "))
	}
	for _, text := range fields[1:] {
		name, err := p.name(text)
		if err != nil {
			return err
		}
		o := p.own[name]
		if o == nil {
			o = &records.Owner{Name: name}
			p.own[name] = o
		}
		if a = a.Unmap(); !slices.Contains(o.Addrs, a) {
			o.Addrs = append(o.Addrs, a)
		}
	}
	return nil
}

// rewrite takes "NAME TARGET": whoever asks for NAME gets what TARGET has.
func (p *parser) rewrite(fields []string) error {
	if len(fields) != 2 {
		return fmt.Errorf("%q isn't a name with another; write it like old.example.com web.default.svc.cluster.local", strings.Join(fields, " "))
	}
	name, err := p.name(fields[0])
	if err != nil {
		return err
	}
	target, err := records.ParseName(fields[1])
	switch {
	case err != nil:
		return err
	case target == name:
		return fmt.Errorf("%s leads to itself", fields[0])
	case p.own[name] != nil:
		return fmt.Errorf("%s has an entry already; a name has addresses or one target", fields[0])
	}
	p.own[name] = &records.Owner{Name: name, Alias: target}
	return nil
}

func (p *parser) name(text string) (records.Name, error) {
	name, err := records.ParseName(text)
	switch {
	case err != nil:
		return "", err
	case name == records.Root:
		return "", fmt.Errorf("%s can't have an entry", text)
	case name.IsUnder(p.zone):
		return "", fmt.Errorf("%s is in the cluster's own domain; make a Service of that name instead", text)
	case name.IsReverse():
		return "", fmt.Errorf("%s is a reverse name; those of Services and endpoints are made from their addresses", text)
	}
	return name, nil
}

// stubs takes {"corp.example.com": ["192.0.2.53"]}, in JSON or YAML.
func (p *parser) stubs(value string) {
	var lists map[string][]string
	if err := yaml.Unmarshal([]byte(value), &lists); err != nil {
		p.problem(`%s: it wants domains with lists of servers, like {"corp.example.com": ["192.0.2.53"]}: %w`, keyStubs, err)
		return
	}
	p.out.Stubs = map[string][]netip.AddrPort{}
	for _, domain := range slices.Sorted(maps.Keys(lists)) {
		name, err := records.ParseName(domain)
		if err == nil && name.IsUnder(p.zone) {
			err = fmt.Errorf("%s is in the cluster's own domain", domain)
		}
		servers, bad := servers(lists[domain])
		if err == nil {
			err = bad
		}
		if err == nil && len(servers) == 0 {
			err = fmt.Errorf("%s has no server", domain)
		}
		if err != nil {
			p.problem("%s: %w", keyStubs, err)
			continue
		}
		p.out.Stubs[name.String()] = servers
	}
}

// upstreams takes ["192.0.2.53"], in JSON or YAML.
func (p *parser) upstreams(value string) {
	var list []string
	err := yaml.Unmarshal([]byte(value), &list)
	if err == nil {
		p.out.Upstreams, err = servers(list)
	}
	if err != nil {
		p.problem(`%s: it wants a list of servers, like ["192.0.2.53"]: %w`, keyUpstreams, err)
	}
}

func servers(list []string) (out []netip.AddrPort, err error) {
	for _, text := range list {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("%q is no server's address; write it like 192.0.2.53 or 192.0.2.53:5353", text)
			}
			at = netip.AddrPortFrom(a, dnsPort)
		}
		out = append(out, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}
	return out, nil
}
