package etcd

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const mebibyte = 1 << 20

const (
	// lowWater is how much the store's file system must have free for writes that add
	// to it. etcd ends the process when it can't extend a file in the middle of a
	// write, so it must never come to that: it makes its log in segments of 64 MiB one
	// ahead (wal.SegmentSizeBytes), and bbolt grows by 16 MiB (DefaultAllocSize).
	lowWater = 112 * mebibyte
	// deadWater is where deletes are refused too: they are written to the log, and copy
	// the pages that they change.
	deadWater = 24 * mebibyte
	// quotaReserve lies below etcd's quota. There our refusal comes first, which is
	// known to have written nothing and leaves deletes and compaction free; at the
	// quota etcd raises an alarm.
	quotaReserve = 32 * mebibyte
	// warnPart of the quota in use is worth a warning: in percent.
	warnPart = 80
)

// space says whether the embedded store has room for a write.
type space struct {
	dir    string
	logger *slog.Logger
	quota  int64
	size   func() int64        // of the database's file
	statfs func() (free int64) // -1: can't be known
	poke   chan struct{}       // wakes the maintenance
	commit chan struct{}       // wakes who has the database committed

	refuses  atomic.Bool  // for one log line at each change
	reserved atomic.Int64 // up to which size the database has its blocks
	added    atomic.Int64 // bytes that were let through since a commit was asked for last
}

// freeBytes is what a file system has left for this user.
func freeBytes(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return -1
	}
	if unix.Geteuid() == 0 {
		return int64(s.Bfree) * s.Frsize
	}
	return int64(s.Bavail) * s.Frsize
}

// allow is asked before each write; a statfs costs a microsecond.
func (s *space) allow(adds int) error {
	var err error
	grows := adds > 0
	free := s.statfs()
	switch {
	case free >= 0 && free < deadWater, free >= 0 && free < lowWater && grows:
		err = noSpace("no space left in %s: free %d MB, then writes go on by themselves", s.dir, (lowWater-free+mebibyte-1)/mebibyte)
	case grows && s.size() > s.quota-quotaReserve:
		s.wake()
		err = noSpace("the store in %s is full: its file has %d MB of at most %d MB; delete what isn't needed, the store is then made smaller by itself",
			s.dir, s.size()/mebibyte, s.quota/mebibyte)
	}
	if err == nil && s.size() > s.reserved.Load()-dbAhead/2 {
		s.wake()
	}
	if err == nil && s.added.Add(int64(adds)) >= commitBytes {
		s.added.Store(0)
		knock(s.commit)
	}
	if s.refuses.CompareAndSwap(err == nil, err != nil) {
		if err != nil {
			s.logger.Error("The store takes no writes", "reason", err)
		} else {
			s.logger.Info("The store takes writes again")
		}
	}
	return err
}

func (s *space) wake() { knock(s.poke) }

// knock wakes who listens at a channel with room for one.
func knock(door chan<- struct{}) {
	select {
	case door <- struct{}{}:
	default: // it is awake already
	}
}

// checkStart refuses a start without room, in which etcd would end the process with
// words of its own.
func (s *space) checkStart() error {
	if free := s.statfs(); free >= 0 && free < lowWater {
		return fmt.Errorf("no space left in %s: the store needs %d MB more to start; remove files there, or give another --data-dir", s.dir, (lowWater-free+mebibyte-1)/mebibyte)
	}
	return nil
}
