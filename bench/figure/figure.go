package figure

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Median is the middle of all, which aren't none.
func Median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// Percentile is the value that p of a hundred don't exceed.
func Percentile(all []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// Milliseconds keeps microseconds as decimals.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Round keeps three decimals: finer than any figure repeats.
func Round(x float64) float64 { return float64(int64(x*1000+0.5)) / 1000 }

// Spread is the least and the most of all, which aren't none.
func Spread(all []float64) [2]float64 {
	return [2]float64{Round(slices.Min(all)), Round(slices.Max(all))}
}

// Write makes JSON of the figures, and saves it where out names a file.
func Write(out string, values any) ([]byte, error) {
	raw, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the figures: %w", err)
	}
	if out == "" {
		return raw, nil
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, fmt.Errorf("write the figures: %w", err)
	}
	if err := os.WriteFile(out, append(raw, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("write the figures: %w", err)
	}
	return raw, nil
}

// FileSystem names that of dir, as its writes are in the figures.
func FileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown: " + err.Error()
	}
	// linux/magic.h
	names := map[int64]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs"}
	if name, ok := names[int64(s.Type)]; ok {
		return name
	}
	return "0x" + strings.TrimLeft(fmt.Sprintf("%x", s.Type), "0")
}
