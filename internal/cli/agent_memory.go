package cli

import (
	"context"
	"runtime/debug"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// agentHeapRoom is how much an agent alone allocates between two collections once it has
// begun: some hundreds of changes.
const agentHeapRoom = 16 * mebibyte

// agentStartRoom is how much an agent alone allocates before its first collection: the
// lists of a thousand Services. Collections, some ten otherwise, took a fifth of its start.
const agentStartRoom = 48 * mebibyte

// makeRoom keeps collections away until the room is let go of: they come when a heap has
// grown by its own size. The room itself takes addresses and no memory, as nobody writes to
// it, not even the runtime, which would fill make's with zeros; its price is as much garbage,
// until keepSmall collects it.
func (n *nodeRun) makeRoom() {
	if n.alone && !heapIsSet() {
		n.room = &strings.Builder{}
		n.room.Grow(agentStartRoom)
	}
}

// agentHeapPercent is the GOGC for a heap with that much alive.
func agentHeapPercent(live uint64) int {
	const least, most = 20, 100
	return int(min(max(least, agentHeapRoom*100/max(live, 1)), most))
}

// keepSmall gives back what the start needed and what a burst of changes left. A process
// that is more than a node, or whose user has set GOGC or GOMEMLIMIT, is left alone.
func (n *nodeRun) keepSmall(ctx context.Context) error {
	if !n.alone || heapIsSet() {
		return nil
	}
	if n.plane != nil && n.plane.Wait(ctx) != nil {
		return nil // the end came before the first Service
	}
	n.room = nil
	debug.FreeOSMemory()
	before, at := readHeap(), time.Now()
	percent := agentHeapPercent(before.live)
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	if err := dropProgramText(); err != nil {
		n.log.Warn("The program's own pages stay in memory", "error", err)
	}
	ticker := time.NewTicker(heapLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := readHeap()
		// Changing it stops the world for a moment.
		if fresh := agentHeapPercent(now.live); fresh > percent+percent/4 || fresh < percent-percent/4 {
			percent = fresh
			debug.SetGCPercent(percent)
		}
		if shouldTrim(before, now, time.Since(at)) {
			debug.FreeOSMemory()
			now = readHeap()
		}
		before, at = now, time.Now()
	}
}

// inProtobuf is the configuration for clients of Kubernetes' own kinds, which every API
// server speaks so: reading a slice from JSON costs several times as much. Nor are the
// answers to be packed: a watch's events are small, and unpacking them took a twentieth of
// the agent's time under changes.
func inProtobuf(config *rest.Config) *rest.Config {
	c := rest.CopyConfig(config)
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.DisableCompression = true
	return c
}
