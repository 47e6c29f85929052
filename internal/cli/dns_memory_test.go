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
		mapping1("00500000-00600000 r-xp 00100000 fe:00 4711   /bin/portico", "0", "0", "0") +
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
