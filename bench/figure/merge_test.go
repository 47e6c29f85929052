package figure

import (
	"os"
	"path/filepath"
	"testing"
)

// Two benchmarks write one file, in any order.
func TestMergeKeepsOthersFigures(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out", "dns.json")
	for _, values := range []map[string]any{
		{"a": 1, "spread": map[string][2]float64{"a": {1, 2}}},
		{"b": 2, "spread": map[string][2]float64{"b": {2, 3}}},
		{"a": 3, "spread": map[string][2]float64{"a": {3, 4}}},
	} {
		if _, err := Merge(out, values); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(out)
	want := `{
  "a": 3,
  "b": 2,
  "spread": {
    "a": [
      3,
      4
    ],
    "b": [
      2,
      3
    ]
  }
}
`
	if err != nil || string(raw) != want {
		t.Errorf("got %s, %v", raw, err)
	}
	if err := os.WriteFile(out, []byte("not JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(out, map[string]any{"a": 1}); err == nil {
		t.Error("a file of something else is overwritten")
	}
}
