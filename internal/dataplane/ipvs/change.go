package ipvs

import (
	"fmt"
	"maps"
	"net/netip"

	"portico.dev/portico/internal/core/catalog"
)

// change plans what Service ports need before and after, and carries out the difference. A
// failure leaves the state unknown.
func (b *Backend) change(ports map[servicePort]bool, change func()) error {
	b.changes++
	d := difference{facts: map[fact]int{}, servers: map[key]*wanted{}, idle: map[key]bool{}}
	for of := range ports {
		p := b.plan.plan(of)
		for x := range p.facts {
			d.facts[x]--
		}
		for k := range p.servers {
			d.servers[k] = nil
		}
		for k := range p.idle {
			d.servers[k] = nil
		}
	}
	change()
	for of := range ports {
		p := b.plan.plan(of)
		for x := range p.facts {
			d.facts[x]++
		}
		maps.Copy(d.servers, p.servers)
		maps.Copy(d.idle, p.idle)
	}
	if err := b.carryOut(&d); err != nil {
		b.plan = nil
		return fmt.Errorf("ipvs data plane: %w", err)
	}
	return nil
}

// difference is what a change adds and takes away.
type difference struct {
	facts   map[fact]int    // how many Service ports more, or less, need each
	servers map[key]*wanted // nil: nobody's
	idle    map[key]bool    // of those that are nobody's
}

func (b *Backend) carryOut(d *difference) error {
	for k, w := range d.servers {
		leaves := w == nil && b.servers.lingers(k, d.idle[k])
		switch had := b.leaving[k]; {
		case had && !leaves:
			delete(b.leaving, k)
			hold(d.facts, k, -1)
		case leaves && !had:
			b.leaving[k] = true
			hold(d.facts, k, +1)
		}
	}
	for k, w := range d.servers {
		if w != nil && b.servers.held[k] == nil && k.protocol == catalog.UDP && !b.fresh[k] {
			b.fresh[k] = true
			d.facts[freshFact(k)]++
		}
	}
	var early, late, lateGone, earlyGone []fact
	for x, by := range d.facts {
		was := b.facts[x]
		switch now := was + by; {
		case now == 0 && was > 0:
			delete(b.facts, x)
			if x.set.early() {
				earlyGone = append(earlyGone, x)
			} else {
				lateGone = append(lateGone, x)
			}
		case now > 0:
			b.facts[x] = now
			if was == 0 && x.set.early() {
				early = append(early, x)
			} else if was == 0 {
				late = append(late, x)
			}
		}
	}
	if err := b.put(early, nil); err != nil {
		return err
	}
	for k, w := range d.servers {
		if w != nil {
			if err := b.servers.put(k, w); err != nil {
				return err
			}
		}
	}
	if err := b.servers.flush(); err != nil {
		return err
	}
	if err := b.put(late, lateGone); err != nil {
		return err
	}
	for k, w := range d.servers {
		if w == nil {
			if _, err := b.servers.leave(k, d.idle[k]); err != nil {
				return err
			}
		}
	}
	if err := b.servers.flush(); err != nil {
		return err
	}
	return b.put(nil, earlyGone)
}

// put adds and deletes facts.
func (b *Backend) put(add, del []fact) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	for _, x := range add {
		if x.set == routeSet {
			if err := b.router.put(netip.PrefixFrom(x.addressOf(), x.addressOf().BitLen())); err != nil {
				return err
			}
		}
	}
	if err := b.tables.change(add, del); err != nil {
		return err
	}
	for _, x := range del {
		if x.set == routeSet {
			if err := b.router.del(netip.PrefixFrom(x.addressOf(), x.addressOf().BitLen())); err != nil {
				return err
			}
		}
	}
	return nil
}
