package ipvs

import (
	"maps"
	"net/netip"
	"slices"

	"portico.dev/portico/internal/dataplane"
)

// site is what the rules depend on besides frontends.
func (b *Backend) site(services []netip.Prefix) *site {
	s := &site{workloads: b.cfg.Workloads, services: services, mark: b.mark()}
	for _, a := range b.cfg.Addresses {
		s.hairpin[index(a.Is6())] = a
	}
	return s
}

// survey is what the kernel has beside what it should have.
type survey struct {
	kernel  map[key]*server // ours
	prior   map[key]bool    // by our own books
	plan    *planner
	servers map[key]*wanted
	idle    map[key]bool
	facts   map[fact]int
	singles []netip.Addr // the addresses of routeSet
	leaving map[key]bool
}

// survey reads the kernel and plans a state. Ours is what our books have, and what has an
// address of the service ranges: those are the cluster's own.
func (b *Backend) survey(state *dataplane.State) (*survey, error) {
	s := &survey{servers: map[key]*wanted{}, idle: map[key]bool{}, facts: map[fact]int{}, leaving: map[key]bool{}}
	var err error
	if s.prior, err = b.tables.ours(); err != nil {
		return nil, err
	}
	in := func(ranges []netip.Prefix, k key) bool {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(k.Addr()) })
	}
	mine := func(k key) bool {
		return (s.prior[k] || in(state.ServiceRanges, k) || in(aliases[:], k)) && !in(b.cfg.Exclude, k)
	}
	if s.kernel, err = b.wire.all(mine); err != nil {
		return nil, err
	}
	s.plan = newPlanner(b.cfg.Scheduler, b.cfg.Exclude)
	s.plan.nodes, s.plan.services = slices.Clone(state.NodeAddresses), slices.Clone(state.ServiceRanges)
	for k := range s.kernel {
		if !mine(k) {
			s.plan.foreign[k] = true
			delete(s.kernel, k)
		}
	}
	for _, f := range state.Frontends {
		s.plan.put(f.Key, f)
	}
	for of := range s.plan.ports {
		p := s.plan.plan(of)
		maps.Copy(s.servers, p.servers)
		maps.Copy(s.idle, p.idle)
		for x := range p.facts {
			s.facts[x]++
		}
	}
	for k := range s.kernel {
		if s.servers[k] == nil {
			s.leaving[k] = true
			hold(s.facts, k, +1)
		}
	}
	for k := range b.fresh {
		s.facts[freshFact(k)] = 1
	}
	s.singles = singles(s.facts)
	return s, nil
}

func freshFact(k key) fact { return fact{freshSet, k.Addr().Is6(), frontendKey(k), ""} }

// hold counts what leads packets of a virtual server that is nobody's to it.
func hold(facts map[fact]int, k key, by int) {
	for _, set := range []set{oursSet, virtualSet} {
		x := fact{set, k.Addr().Is6(), frontendKey(k), ""}
		if facts[x] += by; facts[x] == 0 {
			delete(facts, x)
		}
	}
}

func singles(facts map[fact]int) (out []netip.Addr) {
	for x := range facts {
		if x.set == routeSet {
			out = append(out, x.addressOf())
		}
	}
	return out
}
