package cli

import (
	"testing"
	"time"
)

func TestHeapPercentKeepsTheRoomNotTheFactor(t *testing.T) {
	for _, c := range []struct {
		live    uint64 // MiB
		written bool
		want    int
	}{
		{0, true, 100},
		{1, true, 100},
		{48, true, 100},
		{96, true, 50},
		{1024, true, 30},
		{64, false, 200},
		{192, false, 100},
		{384, false, 50},
		{1024, false, 30},
	} {
		if got := heapPercent(c.live*mebibyte, c.written); got != c.want {
			t.Errorf("%d MiB alive, written %v: got %d, want %d", c.live, c.written, got, c.want)
		}
	}
}

func TestMemoryIsGivenBackWhenNothingIsDone(t *testing.T) {
	before := heapUse{live: 60 * mebibyte, held: 180 * mebibyte, allocated: 1000 * mebibyte}
	for name, c := range map[string]struct {
		held, allocated uint64
		want            bool
	}{
		"garbage, and nothing done":         {held: 180, allocated: 1001, want: true},
		"garbage, and requests":             {held: 180, allocated: 1100, want: false},
		"little garbage, and nothing done":  {held: 70, allocated: 1001, want: false},
		"what is alive alone, nothing done": {held: 60, allocated: 1000, want: false},
	} {
		now := heapUse{live: 60 * mebibyte, held: c.held * mebibyte, allocated: c.allocated * mebibyte}
		if got := shouldTrim(before, now, heapLook); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if shouldTrim(before, heapUse{live: 60 * mebibyte, held: 180 * mebibyte, allocated: 1010 * mebibyte}, time.Second) {
		t.Error("10 MiB in a second are no quiet")
	}
}
