package etcd

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// A store that was closed opens again with what was written to it.
func TestEmbeddedKeepsDataOverRestarts(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	for round, want := range []string{"", "kept"} {
		start := time.Now()
		e, err := StartEmbedded(ctx, dir, slog.Default())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: ready after %v", round, time.Since(start))
		c, err := e.Client()
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.KV.Get(ctx, "/k")
		if err != nil {
			t.Fatal(err)
		}
		value := ""
		if len(got.Kvs) == 1 {
			value = string(got.Kvs[0].Value)
		}
		if value != want {
			t.Errorf("round %d: read %q, want %q", round, value, want)
		}
		if _, err := c.KV.Put(ctx, "/k", "kept"); err != nil {
			t.Fatal(err)
		}
		e.Close()
	}
}
