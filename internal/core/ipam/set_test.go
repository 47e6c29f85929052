package ipam

import (
	"math/rand/v2"
	"testing"
)

// The set against a plain map, over limits that fill words and levels exactly or not.
func TestSetLikeMap(t *testing.T) {
	for _, limit := range []uint64{1, 2, 63, 64, 65, 4095, 4096, 4097, 10000} {
		rnd := rand.New(rand.NewPCG(1, limit))
		s, model := newSet(limit), map[uint64]bool{}
		for step := range 8 * limit {
			x := rnd.Uint64N(limit)
			// Grow to full in the first half, shrink in the second.
			if grow := step < 4*limit; rnd.IntN(8) > 0 == grow {
				if got := s.add(x); got == model[x] {
					t.Fatalf("limit %d: add(%d) = %v", limit, x, got)
				}
				model[x] = true
			} else {
				if got := s.remove(x); got != model[x] {
					t.Fatalf("limit %d: remove(%d) = %v", limit, x, got)
				}
				delete(model, x)
			}
			if s.len != uint64(len(model)) {
				t.Fatalf("limit %d: %d members, want %d", limit, s.len, len(model))
			}
			from := rnd.Uint64N(limit)
			want := from
			for want < limit && model[want] {
				want++
			}
			got, ok := s.nextAbsent(from)
			if ok != (want < limit) || ok && got != want {
				t.Fatalf("limit %d: nextAbsent(%d) = %d, %v; want %d", limit, from, got, ok, want)
			}
		}
		for x := range limit {
			s.add(x)
		}
		if got, ok := s.nextAbsent(0); ok {
			t.Fatalf("limit %d: a full set has %d absent", limit, got)
		}
		for x := range limit {
			s.remove(x)
		}
		for level, words := range s.levels {
			if len(words) != 0 {
				t.Fatalf("limit %d: an empty set keeps %d words on level %d", limit, len(words), level)
			}
		}
	}
}

func TestSetIsSparse(t *testing.T) {
	s := newSet(^uint64(0))
	for _, x := range []uint64{0, 1 << 40, ^uint64(0) - 1} {
		if !s.add(x) || s.add(x) || !s.has(x) {
			t.Errorf("add(%d)", x)
		}
	}
	if got, ok := s.nextAbsent(^uint64(0) - 1); ok {
		t.Errorf("found %d beyond the limit", got)
	}
	if got, ok := s.nextAbsent(1 << 40); !ok || got != 1<<40+1 {
		t.Errorf("nextAbsent = %d, %v", got, ok)
	}
	if n := len(s.levels[0]); n != 3 {
		t.Errorf("%d words for 3 members", n)
	}
}
