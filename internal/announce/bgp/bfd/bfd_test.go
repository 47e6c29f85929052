package bfd

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// FuzzParse: whatever comes in, it is refused or is what we would send ourselves.
func FuzzParse(f *testing.F) {
	good := packet{State: Up, Multiplier: 3, Mine: 1, Yours: 2, MinTx: 50 * time.Millisecond, MinRx: time.Second, Poll: true}
	f.Add(good.append(nil))
	first := packet{State: Down, Diagnostic: NeighborDown, Multiplier: 255, Mine: 1 << 31}
	f.Add(first.append(nil))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 24))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		if p.Multiplier == 0 || p.Mine == 0 || p.Yours == 0 && p.State != Down && p.State != AdminDown {
			t.Errorf("%+v was taken", p)
		}
		// What we don't use: the C and D bits, lengths, and the echo interval.
		want := bytes.Clone(b[:packetLength])
		want[1] &^= 0x0a
		want[3] = packetLength
		binary.BigEndian.PutUint32(want[20:], 0)
		if got := p.append(nil); !bytes.Equal(got, want) {
			t.Errorf("%x is written as %x", want, got)
		}
		m := machine{receive: 10 * time.Millisecond, transmit: 10 * time.Millisecond, multiplier: 3, state: Down, mine: 1}
		now := time.Unix(0, 0)
		m.take(p, now)
		if m.pace() < 0 || m.detection() < 0 {
			t.Errorf("%+v gives a pace of %v and a detection time of %v", p, m.pace(), m.detection())
		}
	})
}

// TestMachine walks through the states of RFC 5880, section 6.2.
func TestMachine(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := machine{receive: 60 * time.Millisecond, transmit: 50 * time.Millisecond, multiplier: 3, state: Down, mine: 7}
	if m.pace() != time.Second {
		t.Errorf("down, the pace is %v", m.pace())
	}
	hear := func(s State, minTx, minRx time.Duration, want State) {
		t.Helper()
		m.take(packet{State: s, Multiplier: 3, Mine: 9, Yours: 7, MinTx: minTx, MinRx: minRx}, now)
		if m.state != want {
			t.Fatalf("after %s it is %s, not %s", s, m.state, want)
		}
	}
	hear(Up, time.Second, time.Second, Down) // of an earlier life: it must go down first
	hear(Down, time.Second, time.Second, Init)
	hear(Down, time.Second, time.Second, Init)
	hear(Up, 50*time.Millisecond, 40*time.Millisecond, Up)
	if p := m.packet(false); !p.Poll || p.MinTx != 50*time.Millisecond || p.Yours != 9 {
		t.Errorf("it announces its pace with %+v", p)
	}
	if p := m.packet(true); p.Poll || !p.Final {
		t.Errorf("it answers a poll with %+v", p)
	}
	m.take(packet{State: Up, Final: true, Multiplier: 3, Mine: 9, Yours: 7, MinTx: 50 * time.Millisecond, MinRx: 70 * time.Millisecond}, now)
	if m.polling || m.pace() != 70*time.Millisecond || m.detection() != 180*time.Millisecond {
		t.Errorf("agreed: polling %v, pace %v, detection %v", m.polling, m.pace(), m.detection())
	}
	if now = now.Add(179 * time.Millisecond); m.silence(now) {
		t.Error("too early")
	}
	if now = now.Add(time.Millisecond); !m.silence(now) || m.state != Down || m.diagnostic != detectionExpired || m.yours != 0 {
		t.Errorf("after silence: %+v", m)
	}
	hear(Down, time.Second, time.Second, Init)
	hear(Init, time.Second, 0, Up)
	if m.pace() != 0 {
		t.Error("it sends to one that wants nothing")
	}
	hear(AdminDown, time.Second, time.Second, Down)
	if m.diagnostic != NeighborDown {
		t.Error(m.diagnostic)
	}
}

// TestSlept: who wakes too late listens once more before it judges.
func TestSlept(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := machine{receive: 50 * time.Millisecond, transmit: 50 * time.Millisecond, multiplier: 3, state: Init, mine: 7}
	m.take(packet{State: Up, Multiplier: 3, Mine: 9, Yours: 7}, now)
	now = now.Add(time.Hour)
	if m.silence(now) || m.silence(now.Add(49*time.Millisecond)) {
		t.Error("it judged at once")
	}
	if !m.silence(now.Add(50 * time.Millisecond)) {
		t.Error("it never judged")
	}
}

// TestPassive: a passive side is silent until it was spoken to.
func TestPassive(t *testing.T) {
	m := machine{receive: time.Second, transmit: time.Second, multiplier: 3, passive: true, state: Down, mine: 7}
	if m.pace() != 0 {
		t.Error("it speaks first")
	}
	m.take(packet{State: Down, Multiplier: 3, Mine: 9, MinRx: time.Second}, time.Unix(0, 0))
	if m.pace() != time.Second || m.state != Init {
		t.Errorf("spoken to: %+v", m)
	}
}
