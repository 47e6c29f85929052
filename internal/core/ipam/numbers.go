package ipam

import (
	"math/rand/v2"
	"sync"
)

// Random gives a number below n; math/rand/v2's Uint64N is one. Servers that start
// at random places rarely choose the same.
type Random func(n uint64) uint64

// numbers hands out the numbers below a size, the upper ones first: those below band
// are left to people who choose by hand as long as others remain.
type numbers struct {
	size, band uint64
	random     Random

	mu    sync.Mutex // guards the following
	taken *set
}

func newNumbers(size, band uint64, random Random) *numbers {
	if random == nil {
		random = rand.Uint64N
	}
	return &numbers{size: size, band: band, random: random, taken: newSet(size)}
}

// band is the size of the part for manual choice, as in KEP-3070 and KEP-3668: a
// share of n, at least 16, at most limit, and none where 16 would be all.
func band(n, share, limit uint64) uint64 {
	const least = 16
	if n <= least {
		return 0
	}
	return min(max(least, n/share), limit)
}

// next marks and returns a free number.
func (n *numbers) next() (uint64, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x, ok := n.search(n.band, n.size)
	if !ok && n.band > 0 {
		x, ok = n.search(0, n.band)
	}
	if ok {
		n.taken.add(x)
	}
	return x, ok
}

// nextFrom marks and returns the first free number from start on, going round once;
// the numbers below low are left out.
func (n *numbers) nextFrom(start, low uint64) (uint64, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x, ok := n.around(start, low, n.size)
	if ok {
		n.taken.add(x)
	}
	return x, ok
}

func (n *numbers) search(low, high uint64) (uint64, bool) {
	return n.around(low+n.random(high-low), low, high)
}

func (n *numbers) around(start, low, high uint64) (uint64, bool) {
	if x, ok := n.taken.nextAbsent(start); ok && x < high {
		return x, true
	}
	x, ok := n.taken.nextAbsent(low)
	return x, ok && x < start
}

func (n *numbers) mark(x uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.taken.add(x)
}

func (n *numbers) release(x uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.taken.remove(x)
}

func (n *numbers) free() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.size - n.taken.len
}

func (n *numbers) has(x uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.taken.has(x)
}

// replace makes the members of taken the only taken numbers.
func (n *numbers) replace(taken *set) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taken = taken
}
