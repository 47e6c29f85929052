package l2

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/election"
)

// decide brings what is held, answered for and said in line with all that is known, sends
// the announcements that are due, and gives when it must be called again without any news.
//
// The order counts: a new holder answers and announces before it tells its peers, upon
// which the old one falls silent.
func (a *Announcer) decide() (next time.Duration) {
	now, view := a.config.Mesh.Now(), a.config.Mesh.View()
	a.mu.Lock()
	defer a.mu.Unlock()
	next = now + time.Minute
	ready := a.input != nil && view.Joined
	if !ready {
		a.arrived = now
	}
	if ready {
		next = a.hold(now, view)
	} else if a.input == nil && len(a.mine) > 0 {
		if expiry := a.begun + resumption; now < expiry {
			next = expiry
		} else {
			a.config.Log.Warn("The API isn't there; what was announced before the restart is left to others")
			clear(a.mine)
		}
	}
	a.answer(ready)
	a.announce(now)
	a.say(ready)
	a.pace(ready)
	return next
}

// pace greets quickly only where something can be lost.
func (a *Announcer) pace(ready bool) {
	interval := greet.Busy
	if ready && len(a.mine) == 0 && len(a.contests) == 0 {
		interval = greet.Calm
	}
	a.config.Mesh.SetInterval(interval)
}

// hold decides on each address. mu is held.
func (a *Announcer) hold(now time.Duration, view *greet.View) (next time.Duration) {
	next = now + time.Minute
	members := map[string]election.Member{a.config.Self: {Name: a.config.Self, Links: a.linkNames(), Leaving: a.leaving}}
	for name, p := range view.Peers {
		if p.Alive && p.Word.Ready {
			members[name] = election.Member{Name: name, Links: linkNames(p.Word.Links), Leaving: p.Word.Leaving}
		}
	}
	a.others = others(view)
	for addr, all := range a.others {
		for _, s := range all {
			a.terms[addr] = max(a.terms[addr], s.claim.Term)
		}
	}
	a.contests = election.Contests(a.input, members)
	wanted := make(map[netip.Addr]bool, len(a.contests))
	for i := range a.contests {
		c := &a.contests[i]
		wanted[c.Address] = true
		next = min(next, a.settle(c, now, view))
	}
	for addr := range a.mine {
		if !wanted[addr] {
			a.release(addr, "no Service and L2Advertisement ask for it")
		}
	}
	maps.DeleteFunc(a.unclaimed, func(addr netip.Addr, _ time.Duration) bool { return !wanted[addr] })
	maps.DeleteFunc(a.terms, func(addr netip.Addr, _ uint64) bool { return !wanted[addr] && len(a.others[addr]) == 0 })
	return next
}

func linkNames(links []greet.Link) (out []string) {
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}

// others gives all nodes' claims by address, of dead nodes too.
func others(view *greet.View) map[netip.Addr][]seen {
	out := map[netip.Addr][]seen{}
	for _, name := range slices.Sorted(maps.Keys(view.Peers)) {
		p := view.Peers[name]
		for _, c := range p.Word.Claims {
			out[c.Address] = append(out[c.Address], seen{name, p.Alive, c})
		}
	}
	return out
}

// settle takes, keeps, yields or releases one address. mu is held.
func (a *Announcer) settle(c *election.Contest, now time.Duration, view *greet.View) (next time.Duration) {
	next = now + time.Minute
	self, h := a.config.Self, a.mine[c.Address]
	b := election.Ballot{Address: c.Address, Candidates: c.Candidates, Reserve: c.Reserve}
	rivals := false
	for _, s := range a.others[c.Address] {
		if s.alive {
			b.Claims = append(b.Claims, s.claim.Of(s.node))
			rivals = rivals || !s.claim.Yields
		}
	}
	if h != nil {
		h.Yields = yields(self, c)
		h.links = c.Links
		b.Claims = append(b.Claims, h.Of(self))
	}
	if since, ok := a.unclaimed[c.Address]; ok {
		b.Passed = int((now - since) / patience)
	}
	d := election.Decide(b)
	if d.Why != election.Elected || d.Holder == self {
		delete(a.unclaimed, c.Address)
	}
	switch {
	case d.Holder == self && h == nil && d.Why == election.Elected && now < a.patientUntil(c.Address) && missing(a.input, view):
		next = a.patientUntil(c.Address)
	case d.Holder == self && h == nil:
		a.take(c, now, view)
	case d.Holder == self && rivals && !h.Yields:
		// A partition has healed. Neighbours may know the rival's hardware address.
		if h.step > 0 {
			h.step, h.next = 0, now
		}
	case d.Holder == self && h.Yields && c.LeftOut[self] != "" && !a.leaving, d.Why == election.Nobody && h != nil:
		a.release(c.Address, "nobody may hold it; this node: "+c.LeftOut[self])
	case d.Holder != self && d.Why == election.Claimed && h != nil:
		a.release(c.Address, "node "+d.Holder+" has it")
	case d.Holder != self && d.Why == election.Elected:
		if _, ok := a.unclaimed[c.Address]; !ok {
			a.unclaimed[c.Address] = now
		}
		next = a.unclaimed[c.Address] + patience*time.Duration(b.Passed+1)
	}
	return next
}

// patientUntil is how long this node leaves an address that nobody has to peers that it
// doesn't hear. mu is held.
func (a *Announcer) patientUntil(addr netip.Addr) time.Duration {
	if len(a.others[addr]) == 0 {
		return a.arrived + founding
	}
	return a.arrived + gathering
}

// missing tells whether a node isn't heard, or isn't to be elected yet. At a cluster's first
// start that is so of a Node that has no address yet, and can't be greeted.
func missing(in *announcing.Input, view *greet.View) bool {
	return slices.ContainsFunc(in.Nodes, func(n announcing.Node) bool {
		p := view.Peers[n.Name]
		return n.Name != in.Self && (!p.Alive || !p.Word.Ready)
	})
}

// yields tells whether this node wants another one to take the address from it.
func yields(self string, c *election.Contest) bool {
	return !slices.Contains(c.Candidates, self) && (len(c.Candidates) > 0 || !slices.Contains(c.Reserve, self))
}

// take makes an address this node's. mu is held.
func (a *Announcer) take(c *election.Contest, now time.Duration, view *greet.View) {
	h := &holding{Claim: greet.Claim{Address: c.Address, Term: a.terms[c.Address] + 1, Since: time.Now()}, why: "nobody had it", links: c.Links, next: now}
	best := uint64(0)
	for _, s := range a.others[c.Address] {
		if s.claim.Term < best {
			continue
		}
		best, h.from = s.claim.Term, s.node
		if s.alive {
			h.why, h.Took = fmt.Sprintf("node %s gave it up", s.node), 0
		} else {
			h.why, h.Took = fmt.Sprintf("node %s was lost", s.node), now-view.Peers[s.node].Heard
		}
	}
	a.terms[c.Address] = h.Term
	a.mine[c.Address] = h
	a.counts.taken(h)
	a.config.Log.Info("This node announces an address", "address", c.Address, "links", c.Links, "why", h.why, "took", h.Took.Round(time.Millisecond))
	a.event(c, "nodeAssigned", "announcing from node %q with protocol \"layer2\": %s is here because %s", a.config.Self, c.Address, h.why)
}

// release ends answering for an address. mu is held.
func (a *Announcer) release(addr netip.Addr, why string) {
	delete(a.mine, addr)
	a.counts.released.Add(1)
	a.config.Log.Info("This node no longer announces an address", "address", addr, "why", why)
}

// answer has the readers know what is held, and links the groups. mu is held.
func (a *Announcer) answer(ready bool) {
	held := make(map[netip.Addr][]string, len(a.mine))
	groups := map[string][]netip.Addr{}
	for addr, h := range a.mine {
		held[addr] = h.links
		if addr.Is6() {
			for _, name := range h.links {
				groups[name] = append(groups[name], solicitedGroup(addr))
			}
		}
	}
	a.restate = a.restate || !maps.EqualFunc(*a.held.Load(), held, slices.Equal[[]string])
	if a.restate || a.regroup {
		a.held.Store(&held)
		for name, l := range a.links {
			if err := l.groups.set(groups[name]); err != nil {
				a.config.Log.Warn("Solicitations for some addresses may not reach this node", "link", name, "error", err)
			}
		}
	}
	a.regroup = false
	if a.restate && ready {
		a.restate = false
		if a.config.Status != nil {
			a.config.Status.Set(a.statuses())
		}
	}
}

// statuses describes what is held: an object for each Service. mu is held.
func (a *Announcer) statuses() (out []metav1.Object) {
	links := map[types.NamespacedName][]string{}
	for i := range a.contests {
		h := a.mine[a.contests[i].Address]
		if h == nil {
			continue
		}
		for _, s := range a.contests[i].Services {
			for _, l := range h.links {
				if !slices.Contains(links[s.Name], l) {
					links[s.Name] = append(links[s.Name], l)
				}
			}
		}
	}
	for service, on := range links {
		out = append(out, statuses.Layer2(a.config.Self, service, on))
	}
	return out
}

// Announcements: a burst, for one may be lost and a switch may learn slowly, then now and
// then, for who was away.
var burst = []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1500 * time.Millisecond}

const (
	again = 30 * time.Second
	// probeAt is the step of the burst that asks for another owner.
	probeAt = 2
)

// announce sends what is due, and gives when the next is. mu is held.
func (a *Announcer) announce(now time.Duration) (next time.Duration) {
	next = now + time.Minute
	if !a.config.Mesh.View().Joined {
		return next
	}
	for addr, h := range a.mine {
		if now >= h.next && !h.Yields {
			for _, name := range h.links {
				if l := a.links[name]; l != nil {
					l.announce(addr)
					a.counts.announcements.Add(1)
					if h.step == probeAt || h.step >= len(burst) {
						l.probe(addr)
					}
				}
			}
			if h.step < len(burst) {
				h.next = now + burst[h.step]
				h.step++
			} else {
				h.next = (now + again).Truncate(time.Second) // many at once cost fewer wake-ups
			}
		}
		if !h.Yields {
			next = min(next, h.next)
		}
	}
	return next
}

// nothingToHandOver tells whether all that others could take was taken. Who has just
// started may be able to soon.
func (a *Announcer) nothingToHandOver() bool {
	for _, p := range a.config.Mesh.View().Peers {
		if p.Alive && !p.Word.Ready && len(a.mine) > 0 {
			return false
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return !slices.ContainsFunc(a.contests, func(c election.Contest) bool {
		return a.mine[c.Address] != nil && len(c.Candidates)+len(c.Reserve) > 0
	})
}
