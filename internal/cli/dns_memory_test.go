package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestUntouchedMappings(t *testing.T) {
	const fields = `
Size:                  4 kB
Private_Dirty:         %DIRTY kB
Anonymous:             %ANON kB
Swap:                  %SWAP kB
VmFlags: rd ex mr mw me sd
`
	mapping1 := func(head, dirty, anon, swap string) string {
		return head + strings.NewReplacer("%DIRTY", dirty, "%ANON", anon, "%SWAP", swap).Replace(fields)
	}
	smaps := mapping1("00400000-00500000 r--p 00000000 fe:00 4711   /bin/portico", "0", "0", "0") +
		mapping1("00500000-00600000 r-xp 00100000 fe:00 4711   /bin/portico", "8", "0", "0") + // the file is new
		mapping1("00600000-00601000 r--p 00200000 fe:00 4711   /bin/portico", "4", "4", "0") + // RELRO
		mapping1("00601000-00602000 r--p 00201000 fe:00 4711   /bin/portico", "0", "0", "4") + // RELRO, swapped out
		mapping1("00602000-00603000 rw-p 00202000 fe:00 4711   /bin/portico", "0", "0", "0") +
		mapping1("00700000-00800000 r-xp 00000000 fe:00 4712   /lib/libc.so.6", "0", "0", "0") +
		mapping1("00900000-00a00000 rw-p 00000000 00:00 0", "8", "8", "0") +
		mapping1("7fff0000-7fff1000 r-xp 00000000 00:00 0      [vdso]", "0", "0", "0")
	got, err := untouched(strings.NewReader(smaps), "/bin/portico")
	if want := []mapping{{0x400000, 0x500000}, {0x500000, 0x600000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
}

func TestNamesGiveBackWhenNothingChanges(t *testing.T) {
	before := heapUse{live: 10 * mebibyte, held: 10 * mebibyte, allocated: 100 * mebibyte}
	for name, c := range map[string]struct {
		held, allocated uint64
		queries         uint64
		collected       bool
		trim, drop      bool
	}{
		"nothing changed":                       {held: 10 * mebibyte},
		"a collection, and nothing changes":     {held: 10 * mebibyte, collected: true, drop: true},
		"garbage, and nothing changes":          {held: 13 * mebibyte, trim: true},
		"garbage, a little of it new":           {held: 13 * mebibyte, allocated: 100 << 10, trim: true},
		"garbage, and more comes":               {held: 13 * mebibyte, allocated: mebibyte},
		"a collection, and more garbage comes":  {held: 13 * mebibyte, allocated: mebibyte, collected: true},
		"what isn't worth another collection":   {held: 11 * mebibyte, allocated: 1000},
		"garbage, and now and then a query":     {held: 13 * mebibyte, queries: 99, collected: true, trim: true, drop: true},
		"garbage, and queries come":             {held: 13 * mebibyte, queries: 100},
		"a collection, and queries come":        {held: 10 * mebibyte, queries: 5000, collected: true},
		"that, and the runtime made one anyway": {held: 11 * mebibyte, allocated: 1000, collected: true, drop: true},
	} {
		now := heapUse{live: before.live, held: c.held, allocated: before.allocated + c.allocated}
		if trim, drop := namesGiveBack(before, now, c.queries, c.collected); trim != c.trim || drop != c.drop {
			t.Errorf("%s: trim %v, drop %v; want %v, %v", name, trim, drop, c.trim, c.drop)
		}
	}
}

func TestNamesPercentKeepsTheRoom(t *testing.T) {
	for live, want := range map[uint64]int{0: 200, 4: 200, 16: 100, 32: 50, 400: namesHeapPercent} {
		if got := namesPercent(live * mebibyte); got != want {
			t.Errorf("%d MiB alive: %d, want %d", live, got, want)
		}
	}
}
