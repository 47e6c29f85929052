package ipam

import "math/bits"

const (
	wordBits = 6 // log2 of the bits in a word
	wordMask = 1<<wordBits - 1
	fullWord = ^uint64(0)
)

// set is a set of numbers below a limit that finds the next absent number in a time
// that depends on the limit only (one step for each six bits of it), however full it
// is, and whose memory depends on its members only, however large the limit is. A bit
// array of an IPv6 /64 would be neither.
//
// It is a sparse tree of 64-bit words. On level 0 a bit is a member; on the levels
// above a bit says that the word below it is full. Empty words aren't stored.
type set struct {
	levels []map[uint64]uint64
	limit  uint64
	len    uint64
}

func newSet(limit uint64) *set {
	s := &set{limit: limit}
	for top := limit - 1; ; top >>= wordBits {
		s.levels = append(s.levels, map[uint64]uint64{})
		if top <= wordMask {
			return s
		}
	}
}

func (s *set) has(x uint64) bool {
	return s.levels[0][x>>wordBits]&(1<<(x&wordMask)) != 0
}

// add reports whether x, which must be below the limit, was absent.
func (s *set) add(x uint64) bool {
	if s.has(x) {
		return false
	}
	s.len++
	for _, words := range s.levels {
		word := words[x>>wordBits] | 1<<(x&wordMask)
		words[x>>wordBits] = word
		if word != fullWord {
			break
		}
		x >>= wordBits
	}
	return true
}

// remove reports whether x was a member.
func (s *set) remove(x uint64) bool {
	if !s.has(x) {
		return false
	}
	s.len--
	for _, words := range s.levels {
		was := words[x>>wordBits]
		if word := was &^ (1 << (x & wordMask)); word != 0 {
			words[x>>wordBits] = word
		} else {
			delete(words, x>>wordBits)
		}
		if was != fullWord {
			break
		}
		x >>= wordBits
	}
	return true
}

// nextAbsent gives the lowest number from x to the limit that isn't a member.
func (s *set) nextAbsent(x uint64) (uint64, bool) {
	// Up: on each level the rest of the word that x is in, then on with its right
	// neighbour.
	for level, words := range s.levels {
		open := ^words[x>>wordBits] & (fullWord << (x & wordMask))
		if open == 0 {
			x = x>>wordBits + 1
			continue
		}
		// Down: a word that isn't full has an open bit.
		x = x&^wordMask | uint64(bits.TrailingZeros64(open))
		for ; level > 0; level-- {
			x = x<<wordBits | uint64(bits.TrailingZeros64(^s.levels[level-1][x]))
		}
		return x, x < s.limit
	}
	return 0, false
}
