package nftables

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"portico.dev/portico/internal/core/routing"
)

// DP-10: a code holds every set that routing makes for every time that the API takes, and
// each code means one target.
func TestCodesWithAffinity(t *testing.T) {
	seen := map[string]target{}
	for _, kind := range []targetKind{cluster, local, nodeCluster, nodeLocal} {
		for _, count := range []int{1, 2, 4095, 4096, routing.MaxBackends} {
			for _, seconds := range []int{0, 1, 10_800, 86_400} {
				want := target{kind, count, seconds}
				code := want.code()
				if got, ok := parseCode(code); !ok || got != want {
					t.Errorf("%v came back as %v", want, got)
				}
				if other, twice := seen[code]; twice {
					t.Errorf("%v and %v have one code", want, other)
				}
				seen[code] = want
			}
		}
	}
	for range 100_000 {
		code := string(binary.NativeEndian.AppendUint32(nil, rand.Uint32()))
		if got, ok := parseCode(code); ok && got.code() != code {
			t.Fatalf("%x is taken for %v, which is %x", code, got, got.code())
		}
	}
}
