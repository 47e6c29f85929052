package endpoints

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpointSet is what the slices of one family and one list of ports should
// hold together.
type endpointSet struct {
	address   discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints map[string]discoveryv1.Endpoint // by identity
}

// setBuilder sorts one family's endpoints into sets by their ports.
type setBuilder struct {
	address discoveryv1.AddressType
	sets    map[string]*endpointSet // by portsKey
}

func setsOf(address discoveryv1.AddressType) setBuilder {
	return setBuilder{address: address, sets: map[string]*endpointSet{}}
}

func (b setBuilder) add(ports []discoveryv1.EndpointPort, e discoveryv1.Endpoint) {
	key := portsKey(ports)
	set := b.sets[key]
	if set == nil {
		set = &endpointSet{address: b.address, ports: ports, endpoints: map[string]discoveryv1.Endpoint{}}
		b.sets[key] = set
	}
	id := identity(&e)
	// By hand one address may be listed as ready and as not ready: ready wins.
	if old, ok := set.endpoints[id]; !ok || !ready(&old) {
		set.endpoints[id] = e
	}
}

// sorted gives the sets in an order that depends on nothing but them. Without
// any and with placeholder set it gives an empty one.
func (b setBuilder) sorted(placeholder bool) []*endpointSet {
	if len(b.sets) == 0 && placeholder {
		return []*endpointSet{{address: b.address}}
	}
	out := make([]*endpointSet, 0, len(b.sets))
	for _, key := range slices.Sorted(maps.Keys(b.sets)) {
		out = append(out, b.sets[key])
	}
	return out
}

// identity tells two endpoints of one set apart: pods on the host's network
// share their address.
func identity(e *discoveryv1.Endpoint) string {
	address := ""
	if len(e.Addresses) > 0 {
		address = e.Addresses[0]
	}
	t := e.TargetRef
	if t == nil {
		return address
	}
	return address + "|" + t.Kind + "|" + t.Namespace + "|" + t.Name + "|" + string(t.UID)
}

func ready(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Ready == nil || *e.Conditions.Ready
}

// portsKey is the same for two lists of ports that mean the same, in any order.
func portsKey(ports []discoveryv1.EndpointPort) string {
	if len(ports) == 0 {
		return ""
	}
	texts := make([]string, 0, len(ports))
	for i := range ports {
		p := &ports[i]
		number := ""
		if p.Port != nil {
			number = strconv.Itoa(int(*p.Port))
		}
		proto := corev1.ProtocolTCP
		if p.Protocol != nil {
			proto = protocol(*p.Protocol)
		}
		texts = append(texts, textOf(p.Name)+"/"+number+"/"+string(proto)+"/"+textOf(p.AppProtocol))
	}
	slices.Sort(texts)
	return strings.Join(texts, ",")
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
