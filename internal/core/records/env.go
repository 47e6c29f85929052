package records

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"portico.dev/portico/internal/core/catalog"
)

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// apiService is described to processes of every namespace, also to those that
// want no variables: it is how they find the API.
const apiNamespace, apiName = "default", "kubernetes"

// Environment gives the variables that describe Services to a process that
// starts in a namespace: for each Service with a cluster IP its host and ports,
// and the set that Docker's links once had. all false leaves the API's only
// (enableServiceLinks: false). Of dual-stack Services the primary family counts.
// The result is sorted by Service, oldest form first; of two Services that spell
// the same variable the one in the namespace wins over the API's.
func Environment(namespace string, services []*catalog.Service, all bool) []Variable {
	picked := map[string]*catalog.Service{}
	for _, s := range services {
		if len(s.ClusterIPs) == 0 || len(s.Ports) == 0 {
			continue
		}
		api := s.Name.Namespace == apiNamespace && s.Name.Name == apiName
		switch {
		case s.Name.Namespace == namespace && (all || api):
			picked[s.Name.Name] = s
		case api && picked[apiName] == nil:
			picked[apiName] = s
		}
	}
	names := make([]string, 0, len(picked))
	for name := range picked {
		names = append(names, name)
	}
	slices.Sort(names)
	var out []Variable
	for _, name := range names {
		out = append(out, ofService(picked[name])...)
	}
	return out
}

// ofService gives one Service's variables. SERVICE_PORT and PORT are those of
// the first port.
func ofService(s *catalog.Service) []Variable {
	prefix := shout(s.Name.Name)
	host := s.ClusterIPs[0].String()
	first := s.Ports[0]
	out := []Variable{
		{prefix + "_SERVICE_HOST", host},
		{prefix + "_SERVICE_PORT", number(first.Port)},
	}
	for _, p := range s.Ports {
		if p.Name != "" {
			out = append(out, Variable{prefix + "_SERVICE_PORT_" + shout(p.Name), number(p.Port)})
		}
	}
	out = append(out, Variable{prefix + "_PORT", url(host, first)})
	for _, p := range s.Ports {
		link := prefix + "_PORT_" + number(p.Port) + "_" + p.Protocol.String()
		out = append(out,
			Variable{link, url(host, p)},
			Variable{link + "_PROTO", strings.ToLower(p.Protocol.String())},
			Variable{link + "_PORT", number(p.Port)},
			Variable{link + "_ADDR", host},
		)
	}
	return out
}

// Shell gives variables the form that a shell, and systemd's EnvironmentFile, read: a
// line NAME=value each. Values are addresses, ports and URLs, which need no quotes. A
// name that begins with a digit can't be assigned there and is left out.
func Shell(variables []Variable) string {
	var b strings.Builder
	for _, v := range variables {
		if v.Name[0] < '0' || v.Name[0] > '9' {
			b.WriteString(v.Name + "=" + v.Value + "\n")
		}
	}
	return b.String()
}

// shout makes a variable's name of a Service's or a port's.
func shout(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

func number(port uint16) string { return strconv.Itoa(int(port)) }

func url(host string, p catalog.ServicePort) string {
	return strings.ToLower(p.Protocol.String()) + "://" + net.JoinHostPort(host, number(p.Port))
}
