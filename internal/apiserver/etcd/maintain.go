package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

const (
	// maintenanceEvery is how often the store is looked at.
	maintenanceEvery = 30 * time.Second
	// historyKept is how long old revisions stay, as with kube-apiserver's
	// --etcd-compaction-interval: a watch that was away longer begins anew.
	historyKept = 5 * time.Minute
	// smallFile isn't worth a defragmentation.
	smallFile = 64 * mebibyte
	// quietRate is how many writes a second are quiet: leases alone make fewer.
	quietRate = 10
)

// sample says which revision the store had when.
type sample struct {
	at  time.Time
	rev int64
}

// maintenance keeps an embedded store small: it removes old revisions, gives free
// pages back to the file system, and takes etcd's alarm away once there is room.
type maintenance struct {
	e       *Embedded
	samples []sample // oldest first
	warned  bool
}

// run works until ctx ends.
func (m *maintenance) run(ctx context.Context, now func() time.Time) {
	ticker := time.NewTicker(maintenanceEvery)
	defer ticker.Stop()
	for {
		if err := m.step(ctx, now()); err != nil && ctx.Err() == nil {
			m.e.space.logger.Warn("The store's maintenance failed; it is tried again", "after", maintenanceEvery, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-m.e.space.poke:
			// Refused writes wake it, and clients repeat those at once.
			select {
			case <-ctx.Done():
				return
			case <-time.After(pokePause):
			}
		}
	}
}

// pokePause bounds how often refused writes cause a compaction.
const pokePause = time.Second

// step is one look at the store.
func (m *maintenance) step(ctx context.Context, now time.Time) error {
	server, space := m.e.server.Server, m.e.space
	if free := space.statfs(); free >= 0 && free < deadWater {
		return nil // it would take space itself
	}
	rev := server.KV().Rev()
	quiet := m.quiet(now, rev)
	m.samples = append(m.samples, sample{now, rev})
	alarm := noSpaceAlarm(server.Alarms())
	tight := alarm != nil || space.size() > space.quota-quotaReserve
	target := m.old(now)
	if tight {
		target = rev // room is worth more than history
	}
	if err := m.compact(ctx, target); err != nil {
		return err
	}
	m.warn()
	if err := m.defragment(quiet, tight); err != nil {
		return err
	}
	// A file that was made smaller is another one.
	if err := space.reserve(); err != nil {
		return err
	}
	if alarm != nil && space.size() <= space.quota-quotaReserve {
		disarm := &pb.AlarmRequest{MemberID: alarm.MemberID, Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE}
		if _, err := server.Alarm(ctx, disarm); err != nil {
			return fmt.Errorf("take etcd's alarm back: %w", err)
		}
		space.logger.Info("The store has room again")
	}
	return nil
}

func noSpaceAlarm(alarms []*pb.AlarmMember) *pb.AlarmMember {
	for _, a := range alarms {
		if a.Alarm == pb.AlarmType_NOSPACE {
			return a
		}
	}
	return nil
}

// quiet compares with the last sample.
func (m *maintenance) quiet(now time.Time, rev int64) bool {
	if len(m.samples) == 0 {
		return false
	}
	last := m.samples[len(m.samples)-1]
	return float64(rev-last.rev) <= quietRate*now.Sub(last.at).Seconds()
}

// old is the newest revision that is historyKept old, 0 when there is none, and
// forgets the samples before it.
func (m *maintenance) old(now time.Time) int64 {
	var rev int64
	for len(m.samples) > 0 && now.Sub(m.samples[0].at) >= historyKept {
		rev = m.samples[0].rev
		m.samples = m.samples[1:]
	}
	return rev
}

// compact removes what was replaced or deleted before rev, and waits for its end.
func (m *maintenance) compact(ctx context.Context, rev int64) error {
	if rev <= m.e.server.Server.KV().FirstRev() {
		return nil
	}
	_, err := m.e.server.Server.Compact(ctx, &pb.CompactionRequest{Revision: rev, Physical: true})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact the store up to revision %d: %w", rev, err)
	}
	return nil
}

// warn says once that the store fills up, and again when it does so another time.
func (m *maintenance) warn() {
	backend, space := m.e.server.Server.Backend(), m.e.space
	full := backend.SizeInUse() > space.quota/100*warnPart
	if full && !m.warned {
		space.logger.Warn("The store fills up; delete what isn't needed before writes are refused",
			"used_mb", backend.SizeInUse()/mebibyte, "quota_mb", space.quota/mebibyte)
	}
	m.warned = full
}

// defragment writes the database anew without its free pages. All requests wait for
// it, so it is done when few would, or when writes are refused anyway.
func (m *maintenance) defragment(quiet, tight bool) error {
	backend, space := m.e.server.Server.Backend(), m.e.space
	size, used := backend.Size(), backend.SizeInUse()
	wasteful := size >= smallFile && used < size/2
	if !(wasteful && quiet) && !(tight && used < size-size/10) {
		return nil
	}
	if free := space.statfs(); free >= 0 && free < used+deadWater {
		return fmt.Errorf("the store's file has %d MB free pages, but making it smaller takes %d MB more space in %s",
			(size-used)/mebibyte, (used+deadWater-free)/mebibyte, space.dir)
	}
	if err := backend.Defrag(); err != nil {
		return fmt.Errorf("defragment the store: %w", err)
	}
	space.logger.Info("The store's file was made smaller", "before_mb", size/mebibyte, "now_mb", backend.Size()/mebibyte)
	return nil
}
