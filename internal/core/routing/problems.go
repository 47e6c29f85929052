package routing

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// Problem is something in a Service or its slices that isn't served as written:
// frontends skip exactly that, and serve the rest.
type Problem struct {
	Slice  types.NamespacedName // the zero value: the Service itself
	Field  string               // its path in the object
	Reason string               // for conditions and events
	Text   string               // what is wrong and how to mend it
}

// String is "EndpointSlice default/web-1, endpoints[0].addresses: what is wrong".
func (p Problem) String() string {
	if p.Slice.Name == "" {
		return p.Field + ": " + p.Text
	}
	return fmt.Sprintf("EndpointSlice %s, %s: %s", p.Slice, p.Field, p.Text)
}

// Reasons of problems besides those of catalog's faults.
const (
	problemTaken      = "AddressTaken"
	problemDuplicate  = "DuplicateEndpoint"
	problemTooMany    = "TooManyEndpoints"
	problemNoSuchPort = "NoSuchPort"
)

// Problems lists what of a Service isn't served, always in the same order. owner says
// who has a key, as Table.Get does. A Service that another proxy serves is none of
// ours, and an ExternalName's slices are nobody's.
func Problems(svc *catalog.Service, from []*catalog.Slice, owner func(Key) *Frontend) []Problem {
	if svc == nil || svc.Foreign || svc.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	from = slices.Clone(from)
	slices.SortFunc(from, func(a, b *catalog.Slice) int { return cmp.Compare(a.Name.Name, b.Name.Name) })
	l := problems{svc: svc, from: from}
	for i := range svc.Faults {
		f := &svc.Faults[i]
		l.add(types.NamespacedName{}, f.Field, f.Reason.String(), f.Text())
	}
	frontends := Compute(&catalog.Node{}, svc, from)
	l.taken(frontends, owner)
	l.tooMany(frontends)
	l.noSuchPort()
	for _, s := range from {
		for i := range s.Faults {
			f := &s.Faults[i]
			if f.Reason == catalog.BadPort && svc.Headless {
				continue // its names have addresses only
			}
			l.add(s.Name, f.Field, f.Reason.String(), f.Text())
		}
	}
	l.duplicates()
	return l.out
}

// problems collects those of one Service.
type problems struct {
	svc  *catalog.Service
	from []*catalog.Slice // by name
	out  []Problem
}

func (l *problems) add(slice types.NamespacedName, field, reason, text string) {
	l.out = append(l.out, Problem{Slice: slice, Field: field, Reason: reason, Text: text})
}

// taken finds the frontends that other Services have.
func (l *problems) taken(frontends []Frontend, owner func(Key) *Frontend) {
	for i := range frontends {
		f := &frontends[i]
		o := owner(f.Key)
		if o == nil || o.Service == f.Service {
			continue
		}
		why := "is older"
		switch {
		case o.Kind == ClusterIP && f.Kind != ClusterIP:
			why = "has it as its cluster IP"
		case o.Created.Equal(f.Created):
			why = "was created in the same second and comes first by UID"
		}
		l.add(types.NamespacedName{}, f.field(l.svc), problemTaken, fmt.Sprintf(
			"%s is served for Service %s, which %s: choose another, or take it from that Service", f.Key, o.Service, why))
	}
}

// field is the path of a frontend's address, for a node port of its number.
func (f *Frontend) field(svc *catalog.Service) string {
	switch f.Kind {
	case ClusterIP:
		return "spec.clusterIPs"
	case ExternalIP:
		return "spec.externalIPs"
	case LoadBalancerIP:
		return "status.loadBalancer.ingress"
	}
	return portField(svc, f.PortName) + ".nodePort"
}

func portField(svc *catalog.Service, name string) string {
	if name == "" {
		return "spec.ports[0]"
	}
	return fmt.Sprintf("spec.ports[name=%s]", name)
}

// tooMany tells of endpoints for which the sets have no room.
func (l *problems) tooMany(frontends []Frontend) {
	var last *Sets
	for i := range frontends {
		f := &frontends[i]
		if f.Sets == last {
			continue
		}
		last = f.Sets
		n := 0
		for j := range f.LeftOut {
			if f.LeftOut[j].Reason == TooMany {
				n++
			}
		}
		if n > 0 {
			l.add(types.NamespacedName{}, portField(l.svc, f.PortName), problemTooMany, fmt.Sprintf(
				"%d endpoints get no traffic, because at most %d can: divide them among several Services", n, MaxBackends))
		}
	}
}

// noSuchPort finds ports of the Service that no slice speaks of, although there are
// endpoints: a name that is written in two ways.
func (l *problems) noSuchPort() {
	if l.svc.Headless {
		return
	}
	for _, p := range l.svc.Ports {
		endpoints, known, names := false, false, []string(nil)
		for _, s := range l.from {
			if len(s.Endpoints) == 0 {
				continue
			}
			endpoints = true
			for _, sp := range s.Ports {
				known = known || sp.Name == p.Name && sp.Protocol == p.Protocol
				names = append(names, fmt.Sprintf("%q %s", sp.Name, sp.Protocol))
			}
		}
		if endpoints && !known {
			slices.Sort(names)
			names = slices.Compact(names)
			has := cmp.Or(strings.Join(names[:min(len(names), maxTold)], ", "), "none")
			l.add(types.NamespacedName{}, portField(l.svc, p.Name), problemNoSuchPort, fmt.Sprintf(
				"no EndpointSlice has a port named %q of protocol %s (there is %s): name it alike in the Service and in its slices, or in its pods", p.Name, p.Protocol, has))
		}
	}
}

// duplicates finds endpoints that are listed more than once for one port.
func (l *problems) duplicates() {
	if l.svc.Headless {
		return // names don't repeat an address
	}
	type place struct {
		at       netip.AddrPort
		name     string
		protocol catalog.Protocol
	}
	first := map[place]*catalog.Slice{}
	before := len(l.out)
	for _, s := range l.from {
		for _, sp := range s.Ports {
			for i := range s.Endpoints {
				p := place{netip.AddrPortFrom(s.Endpoints[i].Addr, sp.Port), sp.Name, sp.Protocol}
				switch other := first[p]; other {
				case nil:
					first[p] = s
				default:
					where := "twice in this slice"
					if other != s {
						where = "in EndpointSlice " + other.Name.Name + " too"
					}
					l.add(s.Name, fmt.Sprintf("endpoints[%s]", p.at), problemDuplicate, "it is listed "+where+" and counts once, in its better state: remove one")
				}
			}
		}
	}
	// A slice's writer may shuffle its endpoints at any time.
	slices.SortStableFunc(l.out[before:], func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Slice.Name, b.Slice.Name), cmp.Compare(a.Field, b.Field))
	})
}

// ServedCondition on a Service is False while a part of it or of its slices isn't
// served as written, with a message that names fields and remedies. It is absent while
// all is.
const ServedCondition = "portico.dev/FullyServed"

// maxTold is how many problems a condition lists, and names a problem: more than a
// person mends at once.
const maxTold = 8

// Condition is that of a Service with these problems, nil when there is none. The
// caller sets the transition time.
func Condition(all []Problem, generation int64) *metav1.Condition {
	if len(all) == 0 {
		return nil
	}
	var told []string
	for _, p := range all[:min(len(all), maxTold)] {
		told = append(told, p.String())
	}
	if n := len(all) - maxTold; n > 0 {
		told = append(told, fmt.Sprintf("and %d more like these", n))
	}
	return &metav1.Condition{
		Type: ServedCondition, Status: metav1.ConditionFalse, Reason: all[0].Reason,
		ObservedGeneration: generation, Message: strings.Join(told, "; "),
	}
}
