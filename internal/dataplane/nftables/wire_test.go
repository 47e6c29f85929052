package nftables

import (
	"slices"
	"testing"
)

func TestCovers(t *testing.T) {
	sent := func(modulus int) attrs {
		var a attrs
		random(modulus, word(1))(&a)
		one(inSet("x"))[0](&a)
		return a
	}
	var more attrs
	more = append(more, sent(3)...)
	more.u32(99, 1)
	if !covers(sent(3), sent(3)) || !covers(more, sent(3)) {
		t.Error("what was sent isn't found")
	}
	if covers(sent(4), sent(3)) || covers(nil, sent(3)) {
		t.Error("another rule passes for ours")
	}
}

// The kernel is trusted, but a parser must not crash on any bytes.
func FuzzParse(f *testing.F) {
	var a attrs
	newFamilies(limits{})[0].set(clusterBackendsMap).appendElement(&a, element{key: "0123456789abcdef", data: "01234567"})
	f.Add([]byte(a))
	f.Add(appendMessage(nil, 1, 2, 3, 4, 5, a))
	f.Fuzz(func(_ *testing.T, b []byte) {
		covers(b, b)
		aboutUs(b)
		_, _ = appendElements(nil, b)
		for _, fam := range newFamilies(limits{}) {
			as, _ := parseAttrs(b)
			for _, at := range as {
				e, err := parseElement(at.payload)
				for i := range fam.sets {
					if err == nil {
						fam.describe(&fam.sets[i], e)
						fam.parseSlot(e.key, e.data, false)
						fam.parseFrontendKey(e.key, true)
						parseCode(e.data)
					}
				}
			}
		}
	})
}

// Elements outlive the buffer of the dump that showed them; what is cut short is an error,
// or less, and never a crash.
func TestAppendElements(t *testing.T) {
	want := []element{{key: "0123456789abcdef", data: "01234567"}, {key: "fedcba9876543210", data: "76543210"}}
	var list attrs
	for _, e := range want {
		newFamilies(limits{})[0].set(clusterBackendsMap).appendElement(&list, e)
	}
	ends := 0
	for n := range list {
		got, err := appendElements(nil, slices.Clone(list[:n]))
		if len(got) > 1 || len(got) == 1 && got[0] != want[0] {
			t.Errorf("%d bytes of %d: %v", n, len(list), got)
		}
		if err == nil {
			ends++
		}
	}
	// No attribute begins in less than four bytes: 0 to 3, and so many behind the first element.
	if ends != 8 {
		t.Errorf("%d of %d lists that are cut short pass", ends, len(list))
	}
	got, err := appendElements(nil, list)
	clear(list)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}
