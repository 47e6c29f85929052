package nftables

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// Session affinity. Packets themselves keep the state, in one map that all
// Services share: affinity, from session and client to a handle. A session is a
// number for one backend set of one Service port, the same for all its
// frontends, so that a client meets the same backend by each of them. A handle is
// the session's number and a number for the backend, together 32 bits, which nft
// prints as a class: "a3:7". A handle that no backend has any more stands for
// nothing, and the client gets another. One map for each Service port would
// need a chain that jumps for each too, at a cost that grows with their number
// (see target).
//
// A client's entry ends when the time has passed since its last new connection.

// defaultClients bounds the map in each family: with some 100 bytes for a client
// it is 26 MB at most. While it is full, clients that aren't in it get any backend
// for each connection.
const defaultClients = 1 << 18

type handle uint32

func handleOf(session, backend uint16) handle { return handle(session)<<16 | handle(backend) }
func (h handle) session() uint16              { return uint16(h >> 16) }

// key is a handle in host order, as it stands in the packet's priority.
func (h handle) key() string { return string(binary.NativeEndian.AppendUint32(nil, uint32(h))) }

func parseHandle(s string) (handle, bool) {
	if len(s) != 4 {
		return 0, false
	}
	h := handle(binary.NativeEndian.Uint32([]byte(s)))
	return h, h.session() != 0
}

// sessionKey is what a session is of.
type sessionKey struct {
	service  types.NamespacedName
	uid      types.UID
	port     string
	protocol catalog.Protocol
	set      int // 0 the cluster set, 1 the local set
}

// session is what the kernel holds of one.
type session struct {
	id        uint16
	protocol  catalog.Protocol // of its Service port; 0: not known yet
	key       sessionKey
	frontends int // that use it; with none it ends
	handles   map[netip.AddrPort]handle
	slots     []handle
	next      uint16 // where to look for the next backend's number
}

// sessions are those of one family.
type sessions struct {
	byKey  map[sessionKey]*session
	byID   map[uint16]*session
	unused map[uint16]bool // may have no frontend
	next   uint16
	// without is a frontend for which there was no number left.
	without *routing.Frontend
}

// maxSessions are all numbers but 0.
const maxSessions = 1<<16 - 1

func newSessions() *sessions {
	return &sessions{byKey: map[sessionKey]*session{}, byID: map[uint16]*session{}, unused: map[uint16]bool{}, next: randomID()}
}

// randomID is where numbers begin: entries of an earlier run, or of a session that
// is no more, should mean nothing.
func randomID() uint16 { return uint16(rand.IntN(1 << 16)) }

func (s *sessions) withID(id uint16) *session {
	x := s.byID[id]
	if x == nil {
		x = &session{id: id, handles: map[netip.AddrPort]handle{}, next: randomID()}
		s.byID[id] = x
		s.unused[id] = true
	}
	return x
}

// find gives the session of a key: the one it has, else adopted if that is
// nobody's yet, else a new one; nil when all numbers are taken.
func (s *sessions) find(key sessionKey, adopted uint16) *session {
	if x := s.byKey[key]; x != nil {
		return x
	}
	x := s.byID[adopted]
	if adopted == 0 || x == nil || x.key != (sessionKey{}) || x.protocol != 0 && x.protocol != key.protocol {
		if len(s.byID) == maxSessions { // without a look at each
			return nil
		}
		id, _ := freeNumber(&s.next, func(n uint16) bool { return s.byID[n] != nil })
		x = s.withID(id)
	}
	x.key, x.protocol = key, key.protocol
	s.byKey[key] = x
	return x
}

// claimSessions gives sessions that the kernel holds to whom they belong, before
// a frontend that has none yet would get a new one for the same Service port.
func (k *kernel) claimSessions(frontends []*routing.Frontend) {
	for _, f := range frontends {
		h := k.held[f.Key]
		if f.Affinity <= 0 || h == nil {
			continue
		}
		p := k.planFor(f.Key)
		for set, a := range setActions {
			if id := h.sessionIDs[set]; id != 0 && k.sessions[p.i].byID[id] != nil && used(f, a) != nil {
				k.sessions[p.i].find(p.sessionKey(f, set), id)
			}
		}
	}
}

// freeNumber gives the next number but 0 that isn't taken.
func freeNumber(next *uint16, taken func(uint16) bool) (uint16, bool) {
	for range 1 << 16 {
		*next++
		if *next != 0 && !taken(*next) {
			return *next, true
		}
	}
	return 0, false
}

func affinitySeconds(f *routing.Frontend) int {
	if f.Affinity <= 0 {
		return 0
	}
	return int(min(max(f.Affinity/time.Second, 1), maxAffinity))
}

// unsticky gives the backends whose slots a frontend has for itself.
func unsticky(f *routing.Frontend, a routing.Action) []routing.Backend {
	if f.Affinity > 0 {
		return nil
	}
	return used(f, a)
}

// setActions are the two backend sets, by the index of sessionKey.set.
var setActions = [2]routing.Action{routing.ToCluster, routing.ToLocal}

// stick plans the sessions of a frontend's sets. A frontend for which there is
// no number left comes back without affinity: any backend is better than none.
func (p plan) stick(h *held, f *routing.Frontend) *routing.Frontend {
	if f.Affinity > 0 {
		for set, a := range setActions {
			if used(f, a) != nil && p.k.sessions[p.i].find(p.sessionKey(f, set), h.sessionIDs[set]) == nil {
				p.k.sessions[p.i].without = f
				plain := *f
				plain.Affinity = 0
				f = &plain
				break
			}
		}
	}
	for set, a := range setActions {
		var want *session
		if b := used(f, a); f.Affinity > 0 && b != nil {
			want = p.k.sessions[p.i].find(p.sessionKey(f, set), h.sessionIDs[set])
			p.k.fill(p.i, want, b[:min(len(b), maxStickyCount)])
		}
		p.join(h, set, want)
	}
	return f
}

// tellWithout says, once while the program runs, that a frontend goes without affinity.
func (b *Backend) tellWithout(k *kernel) {
	for i, s := range k.sessions {
		if f := s.without; f != nil && !b.toldWithout {
			b.toldWithout = true
			b.log.Warn("No session is left: further Service ports go without session affinity, and their clients get any backend for each connection. Switch sessionAffinity off where it isn't needed",
				"family", b.families[i].name, "sessions", maxSessions, "first", f.Service, "frontend", f.Key)
		}
	}
}

func (p plan) sessionKey(f *routing.Frontend, set int) sessionKey {
	return sessionKey{f.Service, f.UID, f.PortName, f.Protocol, set}
}

// unstick plans the end of a frontend's part in its sessions.
func (p plan) unstick(h *held) {
	for set := range setActions {
		p.join(h, set, nil)
	}
}

// join plans the element that leads from a frontend to the session of one set.
func (p plan) join(h *held, set int, want *session) {
	if want != nil {
		want.frontends++
	}
	if old := h.sessions[set]; old != nil {
		old.frontends--
		p.k.sessions[p.i].unused[old.id] = true
	}
	h.sessions[set] = want
	var id uint16
	if want != nil {
		id = want.id
	}
	if id == h.sessionIDs[set] {
		return
	}
	name := p.sessionMaps()[set]
	if old := h.sessionIDs[set]; old != 0 {
		p.k.now.del(p.i, name, p.sessionElement(old))
	}
	if id != 0 {
		p.k.now.add(p.i, name, p.sessionElement(id))
	}
	h.sessionIDs[set] = id
}

func (p plan) sessionMaps() [2]string {
	return [2]string{p.pick(clusterSessionsMap, nodeClusterSessionsMap), p.pick(localSessionsMap, nodeLocalSessionsMap)}
}

func (p plan) sessionElement(id uint16) element {
	return element{key: string(p.key), data: handleOf(id, 0).key()}
}

// fill plans a session's backends: each has a handle, which it keeps as long as
// it stays, and a slot of the draw. A handle lives until the next transaction for
// packets that drew it already.
func (k *kernel) fill(i int, s *session, backends []routing.Backend) {
	wanted := make(map[netip.AddrPort]bool, len(backends))
	handles := make([]handle, 0, len(backends))
	var taken map[handle]bool // made for the first new backend: most changes have none
	for n := range backends {
		ap := backends[n].AddrPort
		wanted[ap] = true
		h, ok := s.handles[ap]
		if !ok {
			if taken == nil {
				taken = s.taken(len(backends))
			}
			h = s.newHandle(taken)
			s.handles[ap], taken[h] = h, true
			k.now.add(i, sessionBackendsMap, s.backend(h, ap))
			k.now.add(i, sessionLiveSet, element{key: h.key()})
		}
		handles = append(handles, h)
	}
	s.slots = planSlots(k, i, sessionSlotsMap, s.slots, handles, s.slot)
	for ap, h := range s.handles {
		if !wanted[ap] {
			delete(s.handles, ap)
			k.now.del(i, sessionLiveSet, element{key: h.key()})
			k.later.del(i, sessionBackendsMap, s.backend(h, ap))
		}
	}
}

// taken gives the handles that backends have, with room for as many more.
func (s *session) taken(more int) map[handle]bool {
	taken := make(map[handle]bool, len(s.handles)+more)
	for _, h := range s.handles {
		taken[h] = true
	}
	return taken
}

func (s *session) newHandle(taken map[handle]bool) handle {
	n, _ := freeNumber(&s.next, func(n uint16) bool { return taken[handleOf(s.id, n)] }) // there are fewer backends
	return handleOf(s.id, n)
}

// backend is the element that leads from a handle to its backend.
func (s *session) backend(h handle, ap netip.AddrPort) element {
	return element{key: h.key() + string([]byte{byte(s.protocol), 0, 0, 0}), data: backendData(ap)}
}

func (s *session) slot(n int, h handle) element {
	return element{key: slotKey([]byte(handleOf(s.id, 0).key()), n), data: h.key()}
}

// settleSessions plans the end of sessions without a frontend.
func (k *kernel) settleSessions() {
	for i, all := range k.sessions {
		for id := range all.unused {
			s := all.byID[id]
			if s == nil || s.frontends > 0 {
				continue
			}
			for ap, h := range s.handles {
				k.now.del(i, sessionLiveSet, element{key: h.key()})
				k.later.del(i, sessionBackendsMap, s.backend(h, ap))
			}
			for n, h := range s.slots {
				k.later.del(i, sessionSlotsMap, s.slot(n, h))
			}
			delete(all.byID, id)
			delete(all.byKey, s.key)
		}
		all.unused = map[uint16]bool{}
	}
}

// adoptSessions takes backends and slots of sessions. A handle counts when it is
// alive and has a backend that no other handle of its session has.
func (k *kernel) adoptSessions(i int, t *tableReading) {
	live := map[handle]bool{}
	for _, e := range t.elements[sessionLiveSet] {
		h, ok := parseHandle(e.key)
		if !ok {
			k.now.del(i, sessionLiveSet, e)
			continue
		}
		live[h] = true
	}
	for _, e := range t.elements[sessionBackendsMap] {
		h, ok := parseHandle(e.key[:min(4, len(e.key))])
		ok = ok && len(e.key) == 8
		ap, known := k.families[i].parseBackend(e.data)
		if !ok || !known || !live[h] {
			k.now.del(i, sessionBackendsMap, e)
			continue
		}
		s := k.sessions[i].withID(h.session())
		if s.protocol == 0 {
			s.protocol = catalog.Protocol(e.key[4])
		}
		if _, twice := s.handles[ap]; twice || s.backend(h, ap) != e {
			k.now.del(i, sessionBackendsMap, e)
			continue
		}
		s.handles[ap] = h
		delete(live, h)
	}
	for h := range live {
		k.now.del(i, sessionLiveSet, element{key: h.key()})
	}
	k.adoptSessionSlots(i, t)
}

func (k *kernel) adoptSessionSlots(i int, t *tableReading) {
	found := map[uint16]map[int]handle{}
	for _, e := range t.elements[sessionSlotsMap] {
		h, ok := parseHandle(e.data)
		var of handle
		if ok && len(e.key) == 8 {
			of, ok = parseHandle(e.key[:4])
		}
		if !ok || len(e.key) != 8 || of.session() != h.session() {
			k.now.del(i, sessionSlotsMap, e)
			continue
		}
		if found[h.session()] == nil {
			found[h.session()] = map[int]handle{}
		}
		found[h.session()][int(binary.NativeEndian.Uint32([]byte(e.key[4:])))] = h
	}
	for id, slots := range found {
		s := k.sessions[i].withID(id)
		for n := 0; ; n++ {
			h, ok := slots[n]
			if !ok {
				break
			}
			s.slots = append(s.slots, h)
			delete(slots, n)
		}
		for n, h := range slots {
			k.now.del(i, sessionSlotsMap, s.slot(n, h))
		}
	}
}

// adoptSessionIDs takes the ways from frontends to sessions.
func (k *kernel) adoptSessionIDs(i int, t *tableReading, name string, nodePort bool, set int) {
	for _, e := range t.elements[name] {
		key, ok := k.families[i].parseFrontendKey(e.key, nodePort)
		h, known := parseHandle(e.data)
		if !ok || !known || h != handleOf(h.session(), 0) {
			k.now.del(i, name, e)
			continue
		}
		k.heldFor(key).sessionIDs[set] = h.session()
	}
}

// parseBackend is the reverse of backendData.
func (f *family) parseBackend(data string) (netip.AddrPort, bool) {
	if len(data) != f.addrLen+4 {
		return netip.AddrPort{}, false
	}
	addr, ok := netip.AddrFromSlice([]byte(data[:f.addrLen]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16([]byte(data[f.addrLen:f.addrLen+2]))), ok
}

// remembering gives the chain that a target with affinity ends in, nowhere for
// others.
func (t target) remembering() target {
	if t.affinity == 0 || t.kind == remember {
		return target{}
	}
	return target{kind: remember, affinity: t.affinity}
}

// describeSession prints elements of sets of sessions.
func (f *family) describeSession(s *setSpec, e element) (string, bool) {
	h, ok := parseHandle(e.key[:min(4, len(e.key))])
	if !ok {
		return "", false
	}
	words := fmt.Sprintf("session %x backend %x", h.session(), uint16(h))
	switch s.name {
	case sessionBackendsMap:
		if ap, ok := f.parseBackend(e.data); ok {
			words += ": " + ap.String()
		}
	case sessionSlotsMap:
		if to, ok := parseHandle(e.data); ok && len(e.key) == 8 {
			words = fmt.Sprintf("session %x slot %d: backend %x", h.session(), binary.NativeEndian.Uint32([]byte(e.key[4:])), uint16(to))
		}
	case sessionLiveSet:
	default:
		return "", false
	}
	return words, true
}
