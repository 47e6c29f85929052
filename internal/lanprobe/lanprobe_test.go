package lanprobe

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"portico.dev/portico/internal/routes/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// LB-01: who is on the LAN is found, by both families, and nobody is taken for somebody.
func TestAsk(t *testing.T) {
	nstest.Need(t)
	lan := nstest.New(t)
	// Addresses are used at once, without looking for duplicates first.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	lan.Connect(t, "lan", []string{"192.0.2.1/24", "2001:db8::1/64"}, "eth0", []string{"192.0.2.7/24", "192.0.2.9/24", "2001:db8::7/64"})
	var addrs []netip.Addr
	for i := range 12 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)))
	}
	addrs = append(addrs, netip.MustParseAddr("198.51.100.1"))
	var result Result
	// The host's address may be tentative for a moment (RFC 4862).
	nstest.Eventually(t, 10*time.Second, "both families answer", func() bool {
		var err error
		if result, err = Ask(t.Context(), addrs); err != nil {
			t.Log(err)
			return false
		}
		return len(result.Taken) == 5
	})
	var taken []string
	for addr, mac := range result.Taken {
		taken = append(taken, fmt.Sprint(addr, " own ", mac == nil))
	}
	slices.Sort(taken)
	want := []string{"192.0.2.1 own true", "192.0.2.7 own false", "192.0.2.9 own false", "2001:db8::1 own true", "2001:db8::7 own false"}
	if !slices.Equal(taken, want) {
		t.Errorf("taken: %v", taken)
	}
	if fmt.Sprint(result.Unasked) != "[198.51.100.1]" {
		t.Errorf("not asked: %v", result.Unasked)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Ask(cancelled, addrs); err == nil {
		t.Error("cancelled, and no error")
	}
}

// FuzzSpeaker: whatever the wire carries.
func FuzzSpeaker(f *testing.F) {
	own := []byte{2, 0, 0, 0, 0, 1}
	f.Add(probe(own, netip.MustParseAddr("192.0.2.1")))
	f.Add(probe(own, netip.MustParseAddr("192.0.2.1"))[:40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		addr, mac, ok := speaker(frame)
		if ok && (!addr.Is4() || len(mac) != 6) {
			t.Errorf("%v %v", addr, mac)
		}
	})
}
