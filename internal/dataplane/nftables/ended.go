package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// A TCP connection ends with its backend: a process that ends closes it. A pod or guest that is gone
// with its link closes nothing, and the client would send into the void for a
// quarter of an hour (tcp_retries2). So packets to backends that are gone are answered by a reset,
// which has the sequence number that the client waits for, and by which conntrack closes the entry.
// To find the entries and delete them would need a walk over all connections, or a
// record of each; and what deleting leaves to the next packet depends on
// nf_conntrack_tcp_loose.
//
// Gone is a backend that was terminating and then is in no slice of the Service any more. One that
// leaves otherwise may go on living, say after its label was changed, and
// then its connections go on too.

const endedSet = "ended-backends"

const (
	// maxEnded bounds what is remembered in each family. The oldest are forgotten first:
	// by then their clients had been answered, or sent nothing.
	maxEnded = 8192
	// endedLife is for how long it is: a client that had sent something gives up after a
	// quarter of an hour (tcp_retries2). What is older goes with the next change.
	endedLife = 20 * time.Minute
)

// ended is a backend that connections to an address of a Service lead to in vain. Without
// the address a stranger who gets the backend's address, and whom others' rules lead
// to, would suffer.
type ended struct {
	used    netip.Addr // by clients
	backend netip.AddrPort
}

// endings is one family's set.
type endings struct {
	by      map[netip.Addr]map[netip.AddrPort]uint64 // what the kernel holds, numbered
	held    int
	last    uint64
	order   []numbered   // oldest first, with some that have been forgotten
	waiting []ended      // gone here, while another Service has the address in use
	left    []netip.Addr // that may be no Service's any more
}

type numbered struct {
	ended
	n     uint64
	since time.Time
}

func newEndings() *endings { return &endings{by: map[netip.Addr]map[netip.AddrPort]uint64{}} }

// holds says whether the kernel still has it, and not again.
func (n *endings) holds(o numbered) bool { return n.by[o.used][o.backend] == o.n }

func (n *endings) has(e ended) bool { return n.by[e.used][e.backend] != 0 }

func (e ended) element() element {
	b := append(make([]byte, 0, 36), e.used.AsSlice()...)
	b = append(b, e.backend.Addr().AsSlice()...)
	return element{key: string(appendPort(b, e.backend.Port()))}
}

func (f *family) parseEnded(key string) (e ended, ok bool) {
	n := f.addrLen
	if len(key) != 2*n+4 {
		return e, false
	}
	b := []byte(key)
	e.used, _ = netip.AddrFromSlice(b[:n])
	e.backend = addrPort(b[n:2*n], b[2*n:2*n+2])
	return e, e.element().key == key
}

// end notes the backends that are gone by a change of one frontend, and forgets
// those that have come back.
func (k *kernel) end(old, f *routing.Frontend) {
	if f.Protocol != catalog.TCP {
		return
	}
	i := index(f.Addr)
	n := k.ends[i]
	var nodes []netip.Addr
	if f.AnyNode() {
		nodes = k.nodes[i].wanted()
	}
	for _, d := range doors(f.Key, nodes) {
		back := func(e ended) bool { return e.used == d.Addr() && knows(f, e.backend) }
		for ap := range n.by[d.Addr()] {
			if e := (ended{d.Addr(), ap}); back(e) {
				k.revive(i, e)
			}
		}
		n.waiting = slices.DeleteFunc(n.waiting, back)
		if old == nil || old.Sets == f.Sets {
			continue
		}
		for b := range old.Backends() {
			if b.Terminating && !knows(f, b.AddrPort) && len(n.waiting) < maxEnded {
				n.waiting = append(n.waiting, ended{d.Addr(), b.AddrPort})
			}
		}
	}
}

func (k *kernel) revive(i int, e ended) {
	k.ends[i].forget(e)
	k.now.del(i, endedSet, e.element())
}

func (n *endings) forget(e ended) {
	if delete(n.by[e.used], e.backend); len(n.by[e.used]) == 0 {
		delete(n.by, e.used)
	}
	n.held--
}

func (n *endings) add(e ended, now time.Time) {
	if n.by[e.used] == nil {
		n.by[e.used] = map[netip.AddrPort]uint64{}
	}
	n.last++
	n.by[e.used][e.backend] = n.last
	n.order = append(n.order, numbered{e, n.last, now})
	n.held++
	if len(n.order) > 2*maxEnded {
		n.order = slices.DeleteFunc(n.order, func(o numbered) bool { return !n.holds(o) })
	}
}

// oldest takes the oldest that is held from the order.
func (n *endings) oldest() ended {
	for {
		o := n.order[0]
		n.order = n.order[1:]
		if n.holds(o) {
			return o.ended
		}
	}
}

// settleEnded plans the set after the frontends.
func (k *kernel) settleEnded() {
	for i := range k.families {
		n := k.ends[i]
		k.releaseEnded(i)
		for len(n.order) > 0 && (!n.holds(n.order[0]) || k.time.Sub(n.order[0].since) > endedLife) {
			if n.holds(n.order[0]) {
				k.revive(i, n.order[0].ended)
			}
			n.order = n.order[1:]
		}
		var waiting []ended
		added := 0
		for _, e := range n.waiting {
			switch a := e.backend.Addr(); {
			case n.has(e):
			case k.near[i].wants(a) || k.far[i].wants(a):
				waiting = append(waiting, e)
			case added < maxEnded:
				if n.held == maxEnded {
					k.revive(i, n.oldest())
				}
				n.add(e, k.time)
				k.now.add(i, endedSet, e.element())
				added++
			}
		}
		n.waiting = waiting
	}
}

// releaseEnded forgets what is about addresses that no Service has any more: the next
// who gets one must find nothing of it.
func (k *kernel) releaseEnded(i int) {
	n := k.ends[i]
	for _, a := range n.left {
		if k.ips[i].wants(a) || k.lbIPs[i].wants(a) || k.external[i].wants(a) || k.nodes[i].wants(a) {
			continue
		}
		for ap := range n.by[a] {
			k.revive(i, ended{a, ap})
		}
		n.waiting = slices.DeleteFunc(n.waiting, func(e ended) bool { return e.used == a })
	}
	n.left = nil
}

// adoptEnded takes what an earlier run knew.
func (k *kernel) adoptEnded(i int, t *tableReading) {
	for _, el := range t.elements[endedSet] {
		e, ok := k.families[i].parseEnded(el.key)
		if !ok {
			k.now.del(i, endedSet, el)
			continue
		}
		k.ends[i].add(e, k.time)
		k.ends[i].left = append(k.ends[i].left, e.used)
	}
}

// answering are the chains that answer packets to backends that are gone. They are there
// while a backend is: the look-up, for every packet, costs a short connection some 3 %.
func (f *family) answering() []chainSpec {
	rules := []ruleSpec{f.reset()}
	return []chainSpec{
		{name: "answer-ended", kind: "filter", hook: unix.NF_INET_PRE_ROUTING, priority: priorityEnded, rules: rules},
		{name: "answer-ended-output", kind: "filter", hook: unix.NF_INET_LOCAL_OUT, priority: priorityEnded, rules: rules},
	}
}

// isAnswering reports whether a table has one of those chains.
func (f *family) isAnswering(t *tableReading) bool {
	return slices.ContainsFunc(f.answering(), func(c chainSpec) bool { return t.chains[c.name] != nil })
}

// answerEnded gives the messages that make the chains come and go with the set's elements.
func (k *kernel) answerEnded() (msgs []message) {
	for i, f := range k.families {
		on := k.ends[i].held > 0
		if on == f.resets {
			continue
		}
		f.resets = on
		for _, c := range f.answering() {
			if on {
				msgs = append(msgs, f.chainMessages(&c)...)
			} else {
				msgs = append(msgs, f.flushMessage(c.name), f.deleteChainMessage(c.name))
			}
		}
	}
	return msgs
}

// reset answers packets to backends that are gone.
func (f *family) reset() ruleSpec {
	const original = 0 // IP_CT_DIR_ORIGINAL
	key := uint32(unix.NFT_CT_DST_IP)
	if f.nf == unix.NFPROTO_IPV6 {
		key = unix.NFT_CT_DST_IP6
	}
	used := expression("ct", func(a *attrs) {
		a.u32(unix.NFTA_CT_KEY, key)
		a.u32(unix.NFTA_CT_DREG, word(0))
		a.bytes(unix.NFTA_CT_DIRECTION, []byte{original})
	})
	w := f.addrLen / 4
	return rule("connections to backends that are gone", establishedConnection(), isProtocol(unix.IPPROTO_TCP),
		one(used, f.destAddress(w), destinationPort(word(2*w)), inSet(endedSet), rejectReset()))
}

func (f *family) describeEnded(e element) (string, bool) {
	n, ok := f.parseEnded(e.key)
	return fmt.Sprintf("connections by %s to %s, which is gone", n.used, n.backend), ok
}
