package greet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func testMessage() message {
	return message{
		sender: "node-a", run: 7, sequence: 8, echoRun: 9, echoSeq: 10, flags: flagReady | flagAsks, interval: Busy, late: 3 * time.Millisecond,
		version: 11, has: 12, links: []Link{{"eth0", [6]byte{2, 0, 0, 0, 0, 1}}, {"eth1", [6]byte{2, 0, 0, 0, 0, 2}}}, part: 1, parts: 2,
		claims: encodeClaims([]Claim{{Address: netip.MustParseAddr("192.0.2.1"), Term: 3, Yields: true, Took: 250 * time.Millisecond, Since: time.Unix(1e9, 0)}})[0],
	}
}

func TestWire(t *testing.T) {
	m := testMessage()
	key := []byte("key")
	text := m.encode(key, "node-b")
	got, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if got.sender != m.sender || got.run != m.run || got.sequence != m.sequence || got.echoRun != m.echoRun || got.echoSeq != m.echoSeq ||
		got.flags != m.flags || got.interval != m.interval || got.late != m.late || got.version != m.version || got.has != m.has ||
		!slices.Equal(got.links, m.links) || got.part != m.part || got.parts != m.parts {
		t.Errorf("got %+v", got)
	}
	claims, err := decodeClaims([][]byte{got.claims})
	if want := (Claim{Address: netip.MustParseAddr("192.0.2.1"), Term: 3, Yields: true, Took: 250 * time.Millisecond, Since: time.Unix(1e9, 0)}); err != nil || len(claims) != 1 || claims[0] != want {
		t.Errorf("claims %+v, %v", claims, err)
	}
	for what, c := range map[string]struct {
		keys     [][]byte
		receiver string
		want     bool
	}{
		"right": {[][]byte{key}, "node-b", true}, "an older key too": {[][]byte{[]byte("x"), key}, "node-b", true},
		"another key": {[][]byte{[]byte("x")}, "node-b", false}, "another receiver": {[][]byte{key}, "node-c", false}, "no key": {nil, "node-b", false},
	} {
		if got.signedBy(c.keys, c.receiver) != c.want {
			t.Errorf("%s: want %v", what, c.want)
		}
	}
	for i := range text { // no bit may change
		text[i] ^= 1
		if m, err := decode(text); err == nil && m.signedBy([][]byte{key}, "node-b") {
			t.Fatalf("byte %d can be changed", i)
		}
		text[i] ^= 1
	}
}

// The largest there can be fits into a packet of any link.
func TestLargestDatagram(t *testing.T) {
	m := testMessage()
	m.sender = strings.Repeat("n", 253)
	m.links = nil
	for range 20 {
		m.links = append(m.links, Link{Name: strings.Repeat("l", 15)})
	}
	m.claims = make([]byte, claimsRoom)
	if n := len(m.encode([]byte("key"), "b")); n > maxSize {
		t.Errorf("%d bytes, more than %d", n, maxSize)
	}
}

func FuzzDecode(f *testing.F) {
	m := testMessage()
	f.Add(m.encode([]byte("key"), "node-b"))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decode(text)
		if err != nil {
			return
		}
		claims, err := decodeClaims([][]byte{m.claims})
		if err != nil {
			return
		}
		// What was understood is said again in the same way.
		again, err := decodeClaims(encodeClaims(claims))
		if err != nil || !slices.Equal(again, claims) {
			t.Errorf("%v became %v, %v", claims, again, err)
		}
	})
}

// FuzzReceive throws authentic datagrams of any content at a mesh: a peer may be mad.
func FuzzReceive(f *testing.F) {
	m := testMessage()
	f.Add(m.encode(simKey, name(0)), uint64(7), uint64(9))
	f.Fuzz(func(t *testing.T, text []byte, run, seq uint64) {
		s := newSim(t, 2)
		s.run(200*time.Millisecond, nil)
		n := s.nodes[0]
		in, err := decode(text)
		if err != nil {
			return
		}
		p := n.mesh.peers[name(1)]
		in.sender, in.run, in.sequence, in.echoRun, in.echoSeq = name(1), run, seq, n.mesh.run, p.sent
		n.mesh.receive(s.now, in.encode(simKey, name(0)))
		s.run(100*time.Millisecond, nil)
	})
}
