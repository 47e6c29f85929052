package l2

import (
	"net"
	"net/netip"
	"time"

	"portico.dev/portico/internal/core/election"
)

// conflict is another host's word that it has an address which this node holds.
type conflict struct {
	addr netip.Addr
	link string
	by   mac
}

// defendInterval is RFC 5227's (section 2.4): two hosts that both defend an address at
// once would fill the link.
const defendInterval = 10 * time.Second

// claimed implements responder. A flood of claims fills the queue and is dropped.
func (a *Announcer) claimed(addr netip.Addr, link string, by mac) {
	select {
	case a.conflicts <- conflict{addr, link, by}:
	default:
	}
}

// judge says it where the other is none of the cluster's nodes: those take addresses from
// each other, and greetings settle that.
func (a *Announcer) judge(c conflict) {
	if a.knows(c.by) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h, now := a.mine[c.addr], a.config.Mesh.Now()
	if h == nil || h.told > 0 && now-h.told < defendInterval {
		return
	}
	h.told = now
	a.counts.conflicts.Add(1)
	if l := a.links[c.link]; l != nil {
		l.announce(c.addr)
	}
	a.config.Log.Warn("Another host answers for a load-balancer address; take the address from it, or out of the pool",
		"address", c.addr, "link", c.link, "mac", net.HardwareAddr(c.by[:]).String())
	a.event(a.contest(c.addr), "addressConflict", "a host with hardware address %s on link %s of node %q answers for %s as well; take the address from it, or out of its pool",
		net.HardwareAddr(c.by[:]), c.link, a.config.Self, c.addr)
}

// knows tells whether a hardware address is of a node, this one or another.
func (a *Announcer) knows(by mac) bool {
	for _, l := range a.links {
		if l.mac == by {
			return true
		}
	}
	for _, p := range a.config.Mesh.View().Peers {
		for _, l := range p.Word.Links {
			if l.MAC == by {
				return true
			}
		}
	}
	return false
}

// contest gives that of an address. mu is held.
func (a *Announcer) contest(addr netip.Addr) *election.Contest {
	for i := range a.contests {
		if a.contests[i].Address == addr {
			return &a.contests[i]
		}
	}
	return nil
}
