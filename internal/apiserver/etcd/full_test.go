package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// smallQuota leaves 64 MB to the database.
const smallQuota = 64*mebibyte + quotaReserve

func startSmall(t *testing.T) (*Embedded, *clientv3.Client) {
	t.Helper()
	return startWith(t, settings{quota: smallQuota, commitEvery: commitEvery})
}

func startWith(t *testing.T, set settings) (*Embedded, *clientv3.Client) {
	t.Helper()
	e, err := startEmbedded(t.Context(), filepath.Join(t.TempDir(), "etcd"), slog.New(slog.NewTextHandler(t.Output(), nil)), set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	c, err := e.Client()
	if err != nil {
		t.Fatal(err)
	}
	return e, c.Client
}

// fill writes until something is refused, and gives what was acknowledged.
func fill(t *testing.T, kv clientv3.KV, key func(i int) string) (keys []string, refused error) {
	t.Helper()
	value := strings.Repeat("x", mebibyte)
	for i := range 300 {
		if _, err := kv.Put(t.Context(), key(i), value); err != nil {
			return keys, err
		}
		keys = append(keys, key(i))
	}
	t.Fatal("300 MB fit")
	return nil, nil
}

func resumes(t *testing.T, kv clientv3.KV) {
	t.Helper()
	begin := time.Now()
	for {
		_, err := kv.Put(t.Context(), "after", "x")
		if err == nil {
			t.Logf("writes went on after %v", time.Since(begin))
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("writes don't go on: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// OPS-05: a store that is full of history makes itself smaller.
func TestFullOfHistory(t *testing.T) {
	_, c := startSmall(t)
	_, err := fill(t, c.KV, func(int) string { return "one" })
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.ErrStatus.Code != http.StatusInsufficientStorage {
		t.Fatalf("refused with %v", err)
	}
	// claims take this code for "nothing was written".
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("code %v", status.Code(err))
	}
	resumes(t, c.KV)
}

// OPS-05: a store that is full of objects takes deletes, has lost nothing, and goes on
// when there is room again.
func TestFullOfObjects(t *testing.T) {
	_, c := startSmall(t)
	keys, refused := fill(t, c.KV, func(i int) string { return fmt.Sprint("object", i) })
	t.Logf("%d MB fit: %v", len(keys), refused)
	if _, err := c.Txn(t.Context()).Then(clientv3.OpPut("a", "b")).Commit(); err == nil {
		t.Error("a transaction with a put was taken")
	}
	for _, key := range keys {
		if got, err := c.Get(t.Context(), key); err != nil || len(got.Kvs) != 1 {
			t.Fatalf("%s is lost: %v", key, err)
		}
	}
	for _, key := range keys[:len(keys)/2] {
		resp, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.Version(key), "=", 1)).Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
		if err != nil || !resp.Succeeded {
			t.Fatalf("delete %s: %v", key, err)
		}
	}
	resumes(t, c.KV)
}

// etcd's own alarm, which only writes that pass by the guard can raise, goes away too.
func TestAlarm(t *testing.T) {
	// etcd knows of its size what was committed.
	e, c := startWith(t, settings{quota: smallQuota, commitEvery: 100 * time.Millisecond})
	raw := v3client.New(e.server.Server)
	defer raw.Close()
	keys, err := fill(t, raw.KV, func(i int) string { return fmt.Sprint("object", i) })
	if noSpaceAlarm(e.server.Server.Alarms()) == nil {
		t.Fatalf("no alarm: %v", err)
	}
	if explained := explain(t.Context(), err, true); status.Code(explained) != codes.Unknown {
		t.Errorf("etcd's refusal may come after the write, and is explained as %v", explained)
	}
	for _, key := range keys[:len(keys)*2/3] {
		if _, err := c.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	resumes(t, c.KV)
	if alarm := noSpaceAlarm(e.server.Server.Alarms()); alarm != nil {
		t.Errorf("the alarm is still there: %v", alarm)
	}
}

// The file is made smaller when most of it is free and few would wait; old revisions go
// after five minutes, and not before.
func TestMaintenance(t *testing.T) {
	e, c := startWith(t, settings{quota: quotaBytes, commitEvery: commitEvery})
	m := &maintenance{e: e}
	now := time.Now()
	step := func(after time.Duration) {
		t.Helper()
		now = now.Add(after)
		if err := m.step(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	step(0)
	for range 80 {
		if _, err := c.Put(t.Context(), "one", strings.Repeat("x", mebibyte)); err != nil {
			t.Fatal(err)
		}
	}
	first := e.server.Server.KV().Rev()
	step(time.Second)
	step(historyKept - 2*time.Second)
	if _, err := c.Get(t.Context(), "one", clientv3.WithRev(first-1)); err != nil {
		t.Errorf("history that is young is gone: %v", err)
	}
	size := e.server.Server.Backend().Size()
	step(2 * time.Second)
	if _, err := c.Get(t.Context(), "one", clientv3.WithRev(first-1)); err == nil {
		t.Error("history that is old is still there")
	}
	step(time.Minute)
	if after := e.server.Server.Backend().Size(); after > size/4 {
		t.Errorf("the file had %d MB and has %d MB", size/mebibyte, after/mebibyte)
	}
	if got, err := c.Get(t.Context(), "one"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("the object is lost: %v", err)
	}
}

// The file system's low water.
func TestSpace(t *testing.T) {
	free := int64(lowWater)
	s := &space{dir: "d", logger: slog.New(slog.DiscardHandler), quota: quotaBytes, size: func() int64 { return 0 }, statfs: func() int64 { return free }, poke: make(chan struct{}, 1)}
	for _, c := range []struct {
		free            int64
		put, del, start bool
	}{
		{lowWater, true, true, true},
		{lowWater - 1, false, true, false},
		{deadWater, false, true, false},
		{deadWater - 1, false, false, false},
		{0, false, false, false},
		{-1, true, true, true}, // unknown
	} {
		free = c.free
		if got := s.allow(1) == nil; got != c.put {
			t.Errorf("%d free: puts are let through: %v", c.free, got)
		}
		if got := s.allow(0) == nil; got != c.del {
			t.Errorf("%d free: deletes are let through: %v", c.free, got)
		}
		if got := s.checkStart() == nil; got != c.start {
			t.Errorf("%d free: starts: %v", c.free, got)
		}
	}
	free = lowWater - 3*mebibyte
	if err := s.allow(1); err == nil || err.Error() != "no space left in d: free 3 MB, then writes go on by themselves" {
		t.Errorf("it says: %v", err)
	}
}

// Two clusters don't share a prefix by mistake, and two servers of one do.
func TestIdentity(t *testing.T) {
	ctx := context.Background()
	_, c := startSmall(t)
	for _, identity := range []string{"one", "one"} {
		if err := errors.Join(Stamp(ctx, c), Identify(ctx, c, identity)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Identify(ctx, c, "two"); !errors.Is(err, ErrIdentity) {
		t.Errorf("another cluster's server: %v", err)
	}
	if _, err := c.Put(ctx, versionKey, "2"); err != nil {
		t.Fatal(err)
	}
	var newer *FormatError
	if err := Stamp(ctx, c); !errors.As(err, &newer) || newer.Found != "2" {
		t.Errorf("a newer store: %v", err)
	}
	if _, err := c.Delete(ctx, versionKey); err != nil {
		t.Fatal(err)
	}
	if err := Stamp(ctx, c); !errors.Is(err, ErrForeign) {
		t.Errorf("a store of something else: %v", err)
	}
}
