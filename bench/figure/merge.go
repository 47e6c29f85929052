package figure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
)

// Merge is Write into a file that several benchmarks share: figures of others stay, also
// those inside of objects, as the spread is.
func Merge(out string, values map[string]any) ([]byte, error) {
	raw, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("write the figures: %w", err)
	}
	next, all := map[string]any{}, map[string]any{}
	if err := json.Unmarshal(raw, &next); err != nil {
		return nil, fmt.Errorf("write the figures: %w", err)
	}
	if out != "" {
		switch old, err := os.ReadFile(out); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("read the other figures: %w", err)
		default:
			if err := json.Unmarshal(old, &all); err != nil {
				return nil, fmt.Errorf("read the other figures in %s: %w", out, err)
			}
		}
	}
	for name, value := range next {
		inner, isObject := value.(map[string]any)
		if old, ok := all[name].(map[string]any); ok && isObject {
			maps.Copy(old, inner)
			continue
		}
		all[name] = value
	}
	return Write(out, all)
}
