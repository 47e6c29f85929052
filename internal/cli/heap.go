package cli

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// heapLook is how often the heap is looked at.
	heapLook = 2 * time.Second
	// heapRoom is how much is allocated between two collections, within the bounds of
	// heapPercent. What a collection frees lies between objects that live, and can't be
	// given back: so a large room costs memory for ever, not only while there is work.
	heapRoom = 48 * mebibyte
	// heapReading is the room instead while the API is read and hardly written: then only
	// garbage comes and goes, all of which can be given back, and a collection of a full
	// server costs more than the reads that it disturbs.
	heapReading = 192 * mebibyte
	// heapWrites is how many writes a second are few: leases are a tenth of it.
	heapWrites = 5
	// heapQuiet is how many bytes a second are quiet: leases and health checks make a
	// tenth of it.
	heapQuiet = 2 * mebibyte
	// heapSlack is what isn't worth a collection, besides a part of the heap itself.
	heapSlack     = 12 * mebibyte
	heapSlackPart = 16
)

const mebibyte = 1 << 20

// heapUse is what the runtime tells of the heap, in bytes.
type heapUse struct {
	live      uint64 // as the last collection found it
	held      uint64 // objects, garbage, and free pages that weren't given back; not the gaps between objects
	allocated uint64 // ever
}

// heapPercent is the GOGC for a heap with that much alive, that has been written to or
// not. The least percentage bounds what a full server spends on collections.
func heapPercent(live uint64, written bool) int {
	const least = 30
	room, most := uint64(heapReading), uint64(200)
	if written {
		room, most = heapRoom, 100
	}
	if live == 0 {
		return int(most)
	}
	return int(min(max(least, room*100/live), most))
}

// shouldTrim reports whether the server has had nothing to do since before, and holds
// memory that it doesn't need.
func shouldTrim(before, now heapUse, passed time.Duration) bool {
	quiet := float64(now.allocated-before.allocated) < heapQuiet*passed.Seconds()
	return quiet && now.held > now.live+max(heapSlack, now.live/heapSlackPart)
}

// keepHeapSmall collects more often than Go would in a large heap, and gives memory back
// to the host when there is no work: the runtime alone keeps twice what is alive. Where work
// has pauses it collects in those. It leaves a process alone whose user has set GOGC or
// GOMEMLIMIT. writes is how many the API has answered.
func keepHeapSmall(ctx context.Context, writes func() uint64) {
	if heapIsSet() {
		return
	}
	before, at := readHeap(), time.Now()
	percent, wrote := heapPercent(before.live, true), writes()
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	ticker := time.NewTicker(pauseLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if readHeapRoom().due() && pauseComes(ctx) && readHeapRoom().due() {
			runtime.GC()
		}
		if time.Since(at) < heapLook {
			continue
		}
		now := readHeap()
		passed := time.Since(at)
		written := float64(writes()-wrote) > heapWrites*passed.Seconds()
		// Changing it stops the world for a moment.
		if fresh := heapPercent(now.live, written); fresh > percent+percent/4 || fresh < percent-percent/4 {
			percent = fresh
			debug.SetGCPercent(percent)
		}
		if shouldTrim(before, now, passed) {
			debug.FreeOSMemory()
			now = readHeap()
		}
		before, at, wrote = now, time.Now(), writes()
	}
}

func readHeap() heapUse {
	v := runtimeCounts("/gc/heap/live:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/free:bytes", "/gc/heap/allocs:bytes")
	return heapUse{live: v[0], held: v[1] + v[2], allocated: v[3]}
}

// runtimeCounts reads metrics of the runtime that are whole numbers (package runtime/metrics).
func runtimeCounts(names ...string) []uint64 {
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	values := make([]uint64, len(names))
	for i := range samples {
		values[i] = samples[i].Value.Uint64()
	}
	return values
}
