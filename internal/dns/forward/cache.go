package forward

import (
	"sync"
	"time"
)

// cache remembers answers up to a number of bytes and forgets the one that was
// asked for longest ago.
type cache struct {
	limit int

	mu      sync.Mutex // guards the following
	bytes   int
	entries map[string]*entry
	recent  entry // ring: recent.next is the latest, recent.prev the oldest
}

type entry struct {
	key        string
	answer     *Answer
	prev, next *entry
}

// entryOverhead is about what an entry costs besides key and message.
const entryOverhead = 256

func (e *entry) size() int { return len(e.key) + len(e.answer.wire) + entryOverhead }

func newCache(limit int) *cache {
	c := &cache{limit: limit, entries: map[string]*entry{}}
	c.recent.prev, c.recent.next = &c.recent, &c.recent
	return c
}

// get gives the answer to a key while it lives.
func (c *cache) get(key []byte, now time.Time) *Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[string(key)]
	if e == nil {
		return nil
	}
	if !now.Before(e.answer.expires) {
		return nil // until it is too old for everything, or room is wanted
	}
	e.unlink()
	c.push(e)
	return e.answer
}

// stale gives the answer to a key although its time is over; nil when it is not over,
// there is none, or it is too old.
func (c *cache) stale(key string, now time.Time) *Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	switch {
	case e == nil || !e.answer.good() || now.Before(e.answer.expires):
		return nil
	case !now.Before(e.answer.useful):
		c.drop(e)
		return nil
	}
	return e.answer
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes = 0
	clear(c.entries)
	c.recent.prev, c.recent.next = &c.recent, &c.recent
}

func (c *cache) put(key string, a *Answer) {
	if !a.expires.After(a.stored) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[key]; old != nil {
		c.drop(old)
	}
	e := &entry{key: key, answer: a}
	c.entries[key] = e
	c.bytes += e.size()
	c.push(e)
	for c.bytes > c.limit {
		c.drop(c.recent.prev)
	}
}

func (c *cache) push(e *entry) {
	e.prev, e.next = &c.recent, c.recent.next
	e.prev.next, e.next.prev = e, e
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (c *cache) drop(e *entry) {
	e.unlink()
	delete(c.entries, e.key)
	c.bytes -= e.size()
}
