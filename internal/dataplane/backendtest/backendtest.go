// Package backendtest has what the kernel tests of back ends share.
//
// In: a Backend and a State. Out: a failed test where the kernel differs. It knows no back
// end.
package backendtest

import (
	"net/netip"
	"testing"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// State has a node with an address of each family, and the default ranges.
func State(frontends ...*routing.Frontend) dataplane.State {
	return dataplane.State{
		Frontends: frontends, NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")},
	}
}

// Sync makes the kernel hold a state, and looks that it does.
func Sync(t testing.TB, b dataplane.Backend, s dataplane.State) {
	t.Helper()
	if err := b.Sync(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	Verify(t, b, s)
}

// Verify wants the kernel to hold a state.
func Verify(t testing.TB, b dataplane.Backend, s dataplane.State) {
	t.Helper()
	words, err := b.Verify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range words {
		t.Error(w)
	}
}
