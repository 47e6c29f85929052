package cli

import (
	"context"
	"time"
)

// It is work that fills the heap, so a collection begins in the midst of some, which then
// shares the processors with it: on two of them a pod's change takes two to three times as
// long until its slice is written. Where work has pauses, collections are made in those.
const (
	// pauseLook is how often is looked whether it is time to wait for a pause.
	pauseLook = 200 * time.Millisecond
	// pauseTick is how long nothing must have been done. A change that waits for the disk
	// waits for less.
	pauseTick = 3 * time.Millisecond
	// pauseStill is how much is allocated in that time where nothing is done: leases and
	// the store's clock make a few kB, a single request more than this.
	pauseStill = 32 * kibibyte
	// pauseLong is how many ticks without work are a pause although no work came before. A
	// pause that has just begun is better: what comes at intervals is furthest away then.
	pauseLong = 30
	// pauseTicks is how many are waited for. Where there is no pause among them the
	// runtime's own collection comes soon.
	pauseTicks = 100
)

const kibibyte = 1 << 10

// heapRoomUse is how far the heap is on its way to the next collection, in bytes.
type heapRoomUse struct {
	live    uint64 // as the last collection found it
	objects uint64 // and garbage
	goal    uint64 // at which the next collection should have ended
}

// due says whether it is time to collect in a pause: so late that there are hardly more
// collections than without, and before the runtime begins by itself, when seven tenths of
// the room are used (gcController.trigger in runtime/mgcpacer.go). While it collects there
// is little else that allocates, which looks like a pause, and one more would follow.
func (u heapRoomUse) due() bool {
	if u.goal <= u.live || u.objects <= u.live {
		return false
	}
	tenths := 10 * (u.objects - u.live) / (u.goal - u.live)
	return tenths == 6
}

func readHeapRoom() heapRoomUse {
	v := runtimeCounts("/gc/heap/live:bytes", "/memory/classes/heap/objects:bytes", "/gc/heap/goal:bytes")
	return heapRoomUse{live: v[0], objects: v[1], goal: v[2]}
}

// stillness looks for a pause by how much was ever allocated, a tick after the other.
type stillness struct {
	allocated uint64
	worked    bool
	still     int // ticks without work
}

// paused reports whether a pause has begun since the last tick, or lasts long.
func (s *stillness) paused(allocated uint64) bool {
	still := allocated-s.allocated < pauseStill
	s.allocated = allocated
	if !still {
		s.worked, s.still = true, 0
		return false
	}
	s.still++
	return s.worked || s.still >= pauseLong
}

// pauseComes waits for a pause, but not for long. false: there was none.
func pauseComes(ctx context.Context) bool {
	ticker := time.NewTicker(pauseTick)
	defer ticker.Stop()
	allocated := func() uint64 { return runtimeCounts("/gc/heap/allocs:bytes")[0] }
	s := stillness{allocated: allocated()}
	for range pauseTicks {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
		if s.paused(allocated()) {
			return true
		}
	}
	return false
}
