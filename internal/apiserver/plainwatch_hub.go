package apiserver

import (
	"errors"
	"slices"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// recentEvents are kept for watches that begin a little behind: most read a list
	// first, which takes a moment.
	recentEvents = 128
	// mostWaitingEvents is how far behind a watch's client may be before it is given up.
	// The library's limit depends on the rate of changes, and is this one at most.
	mostWaitingEvents = 1000
	// batchedEvents are handed on together at most.
	batchedEvents = 64
)

var errNotYet = errors.New("there is no such version yet")

// watchScope is what a watch is about: an empty part means any.
type watchScope struct{ namespace, name string }

// watchHub hands the changes of a kind to its plain watches. Its watch of the watch cache
// has all objects, and each event is encoded once in each form that is wanted. Those who
// watch over one connection are woken together.
type watchHub struct {
	gv          schema.GroupVersion // of the answers
	serializers runtime.NegotiatedSerializer
	empty       func() runtime.Object // of the kind
	open        func(after uint64) (watch.Interface, error)
	readers     *sync.WaitGroup
	dropped     func() // tells that a watch was given up

	mu       sync.Mutex      // guards the following
	source   watch.Interface // nil: nobody watches
	after    uint64          // recent has every event after this version
	last     uint64          // the newest version that was handed out
	recent   []*watchEvent
	watches  int
	audience map[watchScope]map[*bundledConn][]*plainWatch
	encoders map[string]*eventEncoder
	woken    []*plainWatch // by the events that are being handed out
}

// encoder is the one of a form of answers.
func (h *watchHub) encoder(accepted runtime.SerializerInfo) *eventEncoder {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.encoders[accepted.MediaType]
	if !ok {
		e = newEventEncoder(h.serializers, accepted, h.gv)
		if h.encoders == nil {
			h.encoders = map[string]*eventEncoder{}
		}
		h.encoders[accepted.MediaType] = e
	}
	return e
}

// join adds a watch. false: its events before now aren't all known here.
func (h *watchHub) join(w *plainWatch) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.source == nil && !h.begin(w.after) || w.after < h.after {
		return false
	}
	if h.audience[w.scope] == nil {
		if h.audience == nil {
			h.audience = map[watchScope]map[*bundledConn][]*plainWatch{}
		}
		h.audience[w.scope] = map[*bundledConn][]*plainWatch{}
	}
	h.audience[w.scope][w.conn] = append(h.audience[w.scope][w.conn], w)
	h.watches++
	for _, e := range h.recent {
		if slices.Contains(e.scopes(), w.scope) {
			h.offer(w, e)
		}
	}
	h.wake()
	return true
}

// begin watches the watch cache; mu is held.
func (h *watchHub) begin(after uint64) bool {
	source, err := h.open(after)
	if err != nil {
		return false
	}
	var first []watch.Event
	// A source that can't begin there has an error, or its end, at once.
	select {
	case event, ok := <-source.ResultChan():
		if !ok || event.Type == watch.Error {
			source.Stop()
			return false
		}
		first = append(first, event)
	default:
	}
	h.source, h.after, h.last, h.recent = source, after, after, nil
	h.readers.Go(func() { h.read(source, first) })
	return true
}

// leave removes a watch. The last one ends that of the watch cache.
func (h *watchHub) leave(w *plainWatch) {
	h.mu.Lock()
	conns := h.audience[w.scope]
	if left := slices.DeleteFunc(conns[w.conn], func(other *plainWatch) bool { return other == w }); len(left) > 0 {
		conns[w.conn] = left
	} else if delete(conns, w.conn); len(conns) == 0 {
		delete(h.audience, w.scope)
	}
	if h.watches--; h.watches == 0 && h.source != nil {
		h.source.Stop()
		h.source, h.recent = nil, nil
	}
	h.mu.Unlock()
	if _, party, _ := w.take(); party > 0 {
		w.conn.arrived(party)
	}
}

// read hands on what the source has, until its end.
func (h *watchHub) read(source watch.Interface, batch []watch.Event) {
	defer h.end(source)
	defer source.Stop()
	for h.deliver(source, batch) {
		event, ok := <-source.ResultChan()
		if !ok {
			return
		}
		batch = append(batch[:0], event)
		for more := true; more && len(batch) < batchedEvents; {
			select {
			case event, ok := <-source.ResultChan():
				if more = ok; ok {
					batch = append(batch, event)
				}
			default:
				more = false
			}
		}
	}
}

// deliver hands events to those who want them. false: the source is of no use any more.
func (h *watchHub) deliver(source watch.Interface, events []watch.Event) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.source != source {
		return false
	}
	defer h.wake()
	for _, event := range events {
		e, err := newWatchEvent(event)
		if err != nil {
			return false
		}
		h.last = max(h.last, e.version)
		if event.Type == watch.Bookmark {
			for _, conns := range h.audience {
				h.offerAll(conns, e)
			}
			continue
		}
		if len(h.recent) == recentEvents {
			h.after = h.recent[0].version
			h.recent = slices.Delete(h.recent, 0, 1)
		}
		h.recent = append(h.recent, e)
		for _, scope := range e.scopes() {
			h.offerAll(h.audience[scope], e)
		}
	}
	return true
}

func (h *watchHub) offerAll(conns map[*bundledConn][]*plainWatch, e *watchEvent) {
	for _, watches := range conns {
		for _, w := range watches {
			h.offer(w, e)
		}
	}
}

// offer gives an event to a watch that wants it; mu is held.
func (h *watchHub) offer(w *plainWatch, e *watchEvent) {
	if e.version <= w.after || e.kind == watch.Bookmark && !w.bookmarks {
		return
	}
	raw, err := e.form(w.encoder)
	wake, slow := w.add(raw, err != nil)
	if wake {
		h.woken = append(h.woken, w)
	}
	if slow {
		h.dropped()
	}
}

// wake wakes those that were given events, by connection: what they write goes out
// together. mu is held.
func (h *watchHub) wake() {
	for rest := h.woken; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].conn == rest[0].conn {
			n++
		}
		if conn := rest[0].conn; conn != nil && n > 1 {
			party := conn.expect(n)
			for _, w := range rest[:n] {
				w.await(party)
			}
		}
		for _, w := range rest[:n] {
			w.wake <- struct{}{} // there is room: it wasn't awake
		}
		rest = rest[n:]
	}
	clear(h.woken)
	h.woken = h.woken[:0]
}

// bookmark tells a watch how far it has come.
func (h *watchHub) bookmark(w *plainWatch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	obj := h.empty()
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	accessor.SetResourceVersion(strconv.FormatUint(h.last, 10))
	h.offer(w, &watchEvent{kind: watch.Bookmark, object: obj, version: h.last})
	h.wake()
}

// end ends all watches, as their source has ended. Their clients begin anew.
func (h *watchHub) end(source watch.Interface) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.source != source {
		return
	}
	h.source, h.recent = nil, nil
	for _, conns := range h.audience {
		for _, watches := range conns {
			for _, w := range watches {
				if wake, _ := w.add(nil, true); wake {
					h.woken = append(h.woken, w)
				}
			}
		}
	}
	h.wake()
}

// plainWatch is one client's watch.
type plainWatch struct {
	scope     watchScope
	conn      *bundledConn // nil in tests: nobody waits for what it writes
	encoder   *eventEncoder
	bookmarks bool
	after     uint64        // the version that the client has
	wake      chan struct{} // has room for one

	mu      sync.Mutex // guards the following
	waiting [][]byte
	spare   [][]byte // what was taken last
	awake   bool     // wake was sent for, and take hasn't come yet
	party   uint64   // of those for whose writes conn waits; 0: of none
	ended   bool
}

func newPlainWatch(scope watchScope, q watchQuery, conn *bundledConn, encoder *eventEncoder) *plainWatch {
	return &plainWatch{scope: scope, conn: conn, encoder: encoder, bookmarks: q.bookmarks, after: q.after, wake: make(chan struct{}, 1)}
}

// add adds an event, or the end. It tells whether the watch must be woken, and whether it
// is given up as its client is too slow.
func (w *plainWatch) add(event []byte, end bool) (wake, slow bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false, false
	}
	slow = !end && len(w.waiting) >= mostWaitingEvents
	if w.ended = end || slow; !w.ended {
		w.waiting = append(w.waiting, event)
	}
	wake = !w.awake
	w.awake = true
	return wake, slow
}

// await notes that the connection waits for what the watch writes next.
func (w *plainWatch) await(party uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.party = party
}

// take is what waits, the party in which the connection waits for it, and whether it is
// the last. The events are good until the next call.
func (w *plainWatch) take() (events [][]byte, party uint64, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.spare)
	w.waiting, w.spare = w.spare[:0], w.waiting
	events, party, ended = w.spare, w.party, w.ended
	w.awake, w.party = false, 0
	return events, party, ended
}
