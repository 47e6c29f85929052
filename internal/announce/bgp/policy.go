package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	core "portico.dev/portico/internal/core/bgp"
)

const (
	table     = "global" // gobgp's name of it
	inbound   = "in"
	outbound  = "out"
	everybody = "everybody"
	// defaultPref is what a path without a preference has inside an AS, by custom.
	defaultPref = 100
)

// group is the prefixes of which every peer is told the same.
type group struct {
	number     uint32
	statements []*api.Statement // one for each peer
}

// told is what one peer is told of a prefix.
type told struct {
	session *core.Session
	path    *core.Path
}

// key says the same for prefixes of which the same is told.
func key(all []told) string {
	var b strings.Builder
	for _, t := range all {
		fmt.Fprintln(&b, t.session.Peer, t.session.Address, t.path.LocalPref, t.path.Communities, t.path.Large, t.path.NextHop)
	}
	return b.String()
}

// announce makes the table and the export policy equal to the plan. The policy knows old
// groups and new ones while paths change from one to the other, for gobgp withdraws what
// the policy says was announced.
func (s *Speaker) announce(plan *core.Plan) error {
	all := map[netip.Prefix][]told{}
	for i := range plan.Sessions {
		session := &plan.Sessions[i]
		for j := range session.Paths {
			p := &session.Paths[j]
			all[p.Prefix] = append(all[p.Prefix], told{session, p})
		}
	}
	wanted, used := make(map[netip.Prefix]announced, len(all)), map[string]bool{}
	for prefix, t := range all {
		k := key(t)
		used[k] = true
		wanted[prefix] = announced{group: s.group(k, t).number, nextHop: nextHop(prefix, t)}
	}
	if err := s.setPolicy(); err != nil {
		return fmt.Errorf("BGP policy: %w", err)
	}
	err := errors.Join(s.withdraw(wanted), s.advertise(wanted))
	if err == nil {
		maps.DeleteFunc(s.groups, func(k string, _ *group) bool { return !used[k] })
	}
	return err
}

// group finds or makes the one of a key.
func (s *Speaker) group(key string, all []told) *group {
	g, ok := s.groups[key]
	if !ok {
		s.last++
		g = &group{number: s.last}
		for _, t := range all {
			g.statements = append(g.statements, statement(g.number, t))
		}
		s.groups[key] = g
	}
	return g
}

// nextHop gives that of the path in the table: unspecified, unless a peer's session is of
// another family. All such peers have the same, the node's address.
func nextHop(prefix netip.Prefix, all []told) netip.Addr {
	for _, t := range all {
		if t.path.NextHop.IsValid() {
			return t.path.NextHop
		}
	}
	if prefix.Addr().Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// statement lets the paths of a group go to a peer, with what it is told.
func statement(group uint32, t told) *api.Statement {
	pref := t.path.LocalPref
	if pref == 0 {
		pref = defaultPref // gobgp removes it towards other ASes
	}
	address := t.session.Address.String()
	st := &api.Statement{
		Name: fmt.Sprintf("%d %s", group, address),
		Conditions: &api.Conditions{
			NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: address},
			LocalPrefEq: &api.LocalPrefEq{Value: group},
		},
		Actions: &api.Actions{
			RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
			LocalPref:   &api.LocalPrefAction{Value: pref},
		},
	}
	if !t.path.NextHop.IsValid() {
		st.Actions.Nexthop = &api.NexthopAction{Self: true}
	}
	if len(t.path.Communities) > 0 {
		st.Actions.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: texts(t.path.Communities)}
	}
	if len(t.path.Large) > 0 {
		st.Actions.LargeCommunity = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: texts(t.path.Large)}
	}
	return st
}

func texts[T fmt.Stringer](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = v.String()
	}
	return out
}

// setPolicy lets out what the groups say, and refuses all that routers send.
func (s *Speaker) setPolicy() error {
	groups := slices.SortedFunc(maps.Values(s.groups), func(a, b *group) int { return cmp.Compare(a.number, b.number) })
	version := "policy of"
	out := &api.Policy{Name: outbound}
	sets := map[string][]string{everybody: {"0.0.0.0/0", "::/0"}}
	for _, g := range groups {
		version += fmt.Sprint(" ", g.number)
		for _, st := range g.statements {
			out.Statements = append(out.Statements, st)
			sets[st.Conditions.NeighborSet.Name] = []string{st.Conditions.NeighborSet.Name}
		}
	}
	if version == s.policy {
		return nil
	}
	request := &api.SetPoliciesRequest{Policies: []*api.Policy{out, {Name: inbound, Statements: []*api.Statement{{
		Name:       inbound,
		Conditions: &api.Conditions{NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: everybody}},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
	}}}}}
	for name, list := range sets {
		request.DefinedSets = append(request.DefinedSets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: name, List: list})
	}
	ctx := context.Background()
	if err := s.server.SetPolicies(ctx, request); err != nil {
		return err
	}
	if s.policy == "" {
		for _, a := range []*api.PolicyAssignment{
			// Paths of our own come from no neighbour, and are accepted.
			{Name: table, Direction: api.PolicyDirection_POLICY_DIRECTION_IMPORT, Policies: []*api.Policy{{Name: inbound}}, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
			{Name: table, Direction: api.PolicyDirection_POLICY_DIRECTION_EXPORT, Policies: []*api.Policy{{Name: outbound}}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT},
		} {
			if err := s.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: a}); err != nil {
				return err
			}
		}
	}
	s.policy = version
	return nil
}

// withdraw removes the paths that nobody is to hear of any more.
func (s *Speaker) withdraw(wanted map[netip.Prefix]announced) error {
	var problems []error
	for prefix, is := range s.paths {
		if _, ok := wanted[prefix]; ok {
			continue
		}
		p, err := path(prefix, is)
		if err == nil {
			p.Withdrawal = true
			err = s.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}})
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("withdraw %s: %w", prefix, err))
			continue
		}
		delete(s.paths, prefix)
	}
	return errors.Join(problems...)
}

// advertise puts new and changed paths into the table, all at once.
func (s *Speaker) advertise(wanted map[netip.Prefix]announced) error {
	var paths []*apiutil.Path
	for prefix, want := range wanted {
		if s.paths[prefix] == want {
			continue
		}
		p, err := path(prefix, want)
		if err != nil {
			return fmt.Errorf("announce %s: %w", prefix, err)
		}
		paths = append(paths, p)
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
		return fmt.Errorf("announce %d prefixes: %w", len(paths), err)
	}
	maps.Copy(s.paths, wanted)
	return nil
}

// path gives a path as gobgp wants it.
func path(prefix netip.Prefix, a announced) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(prefix)
	if err != nil {
		return nil, err
	}
	p := &apiutil.Path{Family: bgp.RF_IPv4_UC, Nlri: nlri}
	var hop bgp.PathAttributeInterface
	if prefix.Addr().Is6() {
		p.Family = bgp.RF_IPv6_UC
		hop, err = bgp.NewPathAttributeMpReachNLRI(p.Family, []bgp.PathNLRI{{NLRI: nlri}}, a.nextHop)
	} else {
		hop, err = bgp.NewPathAttributeNextHop(a.nextHop)
	}
	const igp = 0 // ORIGIN, RFC 4271 section 4.3
	p.Attrs = []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(igp), hop, bgp.NewPathAttributeLocalPref(a.group)}
	return p, err
}
