package ipvs

import (
	"fmt"
	"maps"
	"time"
)

// IPVS sends no notices. So its virtual servers are read now and then, and our routes with
// them: to find what somebody else changed, and whose last connection has ended.
const (
	lookEach  = time.Second
	lookShare = 30 // a look takes one part of so many of a processor's time at most
)

// lookAfter looks until Close.
func (b *Backend) lookAfter() {
	pause := lookEach
	for {
		select {
		case <-b.done:
			return
		case <-time.After(pause):
		}
		begun := time.Now()
		if err := b.look(); err != nil {
			b.log.Error("The virtual servers can't be looked after", "err", err)
			b.tables.Disturb()
		}
		pause = max(lookEach, lookShare*time.Since(begun))
	}
}

// look compares the kernel with what we made. What we change meanwhile voids it.
func (b *Backend) look() error {
	b.mu.Lock()
	known, changes := b.plan != nil, b.changes
	var ours map[key]bool
	if known {
		ours = make(map[key]bool, len(b.servers.held))
		for k := range b.servers.held {
			ours[k] = true
		}
	}
	b.mu.Unlock()
	if !known {
		return nil
	}
	now, err := b.eye.all(func(k key) bool { return ours[k] })
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changes != changes || b.plan == nil {
		return nil
	}
	for k, s := range b.servers.held {
		if !s.same(now[k]) {
			b.tables.Disturb()
			return nil
		}
	}
	routes, err := b.router.differences(routesOf(b.services, singles(b.facts)))
	if err != nil {
		return err
	}
	if len(routes) > 0 {
		b.tables.Disturb()
		return nil
	}
	return b.dismiss(now)
}

// same reports whether the kernel has the same, connections apart.
func (s *server) same(now *server) bool {
	return now != nil && s.definition == now.definition &&
		maps.EqualFunc(s.backends, now.backends, func(a, b load) bool { return a.weight == b.weight })
}

// dismiss deletes the backends that leave and have no connection any more, and then the
// virtual servers that leave. mu is held.
func (b *Backend) dismiss(now map[key]*server) error {
	if err := b.letGo(now); err != nil {
		b.plan = nil
		return fmt.Errorf("forget virtual servers that are gone: %w", err)
	}
	return nil
}

func (b *Backend) letGo(now map[key]*server) error {
	for k, s := range now {
		for at, l := range s.backends {
			if l.weight == 0 && l.active+l.inactive == 0 {
				b.changes++
				if err := b.servers.backend(cmdDelDest, k, at, 0); err != nil {
					return err
				}
			}
		}
	}
	d := difference{facts: map[fact]int{}}
	for k := range b.leaving {
		if s := b.servers.held[k]; s != nil && len(s.backends) > 0 {
			continue
		}
		b.changes++
		delete(b.leaving, k)
		hold(d.facts, k, -1)
		if b.servers.held[k] == nil {
			continue
		}
		if err := b.servers.remove(k); err != nil {
			return err
		}
	}
	if err := b.servers.flush(); err != nil {
		return err
	}
	return b.carryOut(&d)
}
