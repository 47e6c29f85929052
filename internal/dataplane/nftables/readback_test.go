package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// A restart takes a frontend's slots whatever order a dump shows them in, up to the first
// that is missing; those behind are planned to go, however far behind.
func TestAdoptSlots(t *testing.T) {
	families := newFamilies(limits{})
	f := frontend(backends(1, 2, 3, 4, 5))
	for missing := range 6 { // 5: none
		t.Run(fmt.Sprint("without slot ", missing), func(t *testing.T) {
			k, shown := newKernel(families), model{}
			k.set(f)
			k.settle()
			shown.apply(t, &k.now)
			slots := shown[setRef{0, clusterBackendsMap}]
			delete(slots, slotKey(frontendKey(f.Key), missing))
			slots[slotKey(frontendKey(f.Key), 1<<31)] = backendData(f.Sets.Cluster[0].AddrPort)

			k = newKernel(families)
			k.adopt(shown.reading())
			var want []netip.AddrPort
			for _, b := range f.Sets.Cluster[:min(missing, 5)] {
				want = append(want, b.AddrPort)
			}
			if got := k.held[f.Key].cluster; !slices.Equal(got, want) {
				t.Errorf("adopted %v, want %v", got, want)
			}
			shown.apply(t, &k.now)
			if len(slots) != len(want) {
				t.Errorf("%d slots stay in the kernel; want %d", len(slots), len(want))
			}
		})
	}
}
