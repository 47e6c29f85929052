package etcd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// never is a time between commits in which none comes by itself.
const never = time.Hour

// What was acknowledged survives a power cut before the database was committed: it is in
// the log.
func TestUncommittedSurvives(t *testing.T) {
	e, c := startWith(t, settings{quota: quotaBytes, commitEvery: never})
	if _, err := c.KV.Put(t.Context(), "/k", "kept"); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.CopyFS(cut, os.DirFS(e.space.dir)); err != nil {
		t.Fatal(err)
	}
	after, err := StartEmbedded(t.Context(), cut, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	again, err := after.Client()
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.KV.Get(t.Context(), "/k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "kept" {
		t.Errorf("after the cut: %v, %v", got, err)
	}
}

// Large writes are committed before they fill the blocks that the database has in reserve.
func TestLargeWritesAreCommitted(t *testing.T) {
	e, c := startWith(t, settings{quota: quotaBytes, commitEvery: never})
	large := strings.Repeat("x", mebibyte)
	for range 2 * commitBytes / mebibyte {
		if _, err := c.KV.Put(t.Context(), "/k", large); err != nil {
			t.Fatal(err)
		}
	}
	patience, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// A commit alone tells how much is used.
	for e.server.Server.Backend().SizeInUse() < commitBytes {
		select {
		case <-patience.Done():
			t.Fatal("no commit came")
		case <-time.After(time.Millisecond):
		}
	}
}
