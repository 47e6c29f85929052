// Package figuretest proves that a benchmark measures.
package figuretest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Short runs a benchmark's short form with the binary that PORTICO names. It wants each
// of the figures, above zero, and nothing left behind; it gives all that was written.
func Short(t *testing.T, target string, run func(ctx context.Context, args []string) error, figures ...string) map[string]any {
	t.Helper()
	binary := os.Getenv("PORTICO")
	if binary == "" {
		t.Skipf("PORTICO doesn't name a binary to measure; `make %s BENCH=short` does", target)
	}
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out", target+".json")
	if err := run(context.Background(), []string{"-short", "-portico", binary, "-dir", dir, "-out", out}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range figures {
		if v, ok := got[name].(float64); !ok || v <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return got
}
