package greet

import (
	"net/netip"
	"testing"
	"time"
)

// LB-03: a node that dies, freezes or is cut off is known to be lost within 300 ms, at
// whatever moment it happens; nobody else is.
func TestLossIsKnown(t *testing.T) {
	for _, how := range []string{"dead", "cut off", "deaf", "mute"} {
		s := newSim(t, 3)
		s.run(time.Second, nil)
		s.mustAllLive("at the start")
		worst := time.Duration(0)
		for range 50 {
			s.run(time.Duration(s.rand.IntN(100))*time.Millisecond, nil)
			lost := s.rand.IntN(3)
			switch how {
			case "dead":
				s.nodes[lost].asleep = true
			case "cut off":
				s.cut = func(from, to int) bool { return from == lost || to == lost }
			case "deaf":
				s.cut = func(_, to int) bool { return to == lost }
			case "mute":
				s.cut = func(from, _ int) bool { return from == lost }
			}
			begin, known := s.now, time.Duration(0)
			s.run(time.Second, func() {
				gone := true
				for i := range s.nodes {
					gone = gone && (i == lost || !s.alive(i, lost))
				}
				if gone && known == 0 {
					known = s.now - begin
				}
			})
			if how == "deaf" && known > time.Second || how != "deaf" && (known == 0 || known > 300*time.Millisecond) {
				t.Fatalf("%s: known after %v", how, known)
			}
			worst = max(worst, known)
			if o := []int{1, 2, 0, 1}[lost:]; !s.alive(o[0], o[1]) && o[1] != lost {
				t.Fatalf("%s: %s took %s for dead", how, name(o[0]), name(o[1]))
			}
			s.nodes[lost].asleep, s.cut = false, nil
			s.run(time.Second, nil)
			s.mustAllLive("after it came back from being " + how)
		}
		t.Logf("%s: known after %v at most", how, worst)
	}
}

// LB-03: neither lost datagrams nor a processor that others use make a node look dead.
func TestNoFalseDeath(t *testing.T) {
	for what, set := range map[string]func(s *sim){
		"one of ten datagrams is lost": func(s *sim) { s.loss = 0.1 },
		"threads come up to 30 ms late": func(s *sim) {
			s.late = func(int) time.Duration { return time.Duration(s.rand.IntN(30)) * time.Millisecond }
		},
		"one thread comes late each time, and datagrams are lost": func(s *sim) {
			s.loss = 0.2
			s.late = func(i int) time.Duration {
				if i != 0 {
					return 0
				}
				return time.Duration(100+s.rand.IntN(80)) * time.Millisecond
			}
		},
		"threads come 100 ms late now and then": func(s *sim) {
			s.late = func(int) time.Duration {
				if s.rand.IntN(20) == 0 {
					return 100 * time.Millisecond
				}
				return time.Duration(s.rand.IntN(10)) * time.Millisecond
			}
		},
	} {
		s := newSim(t, 3)
		set(s)
		s.run(2*time.Second, nil)
		s.mustAllLive(what)
		minutes := 2
		s.run(time.Duration(minutes)*time.Minute, func() { s.mustAllLive(what) })
		// And yet a death is known in time.
		s.nodes[0].asleep = true
		s.run(time.Second, nil)
		if s.alive(1, 0) || s.alive(2, 0) {
			t.Errorf("%s: a dead node isn't known after a second", what)
		}
	}
}

// LB-03: all machines that stop together (their host was) find each other alive.
func TestAllPause(t *testing.T) {
	s := newSim(t, 3)
	s.run(time.Second, nil)
	for range 20 {
		s.now += time.Duration(s.rand.IntN(5000)) * time.Millisecond
		s.run(time.Second, func() { s.mustAllLive("after a common pause") })
	}
}

// LB-03: a node that was stopped knows so from its clock before it does anything else, and
// waits until it has heard the others; what had waited in its socket doesn't count.
func TestAway(t *testing.T) {
	s := newSim(t, 3)
	s.run(time.Second, nil)
	n := s.nodes[0]
	if !n.mesh.joined {
		t.Fatal("it hasn't joined")
	}
	n.asleep = true
	s.run(3*time.Second, nil)
	s.nodes[1].asleep = true // it dies, and nothing but old greetings of it are there
	s.run(time.Second, nil)
	n.asleep = false
	s.run(time.Millisecond, nil)
	if n.mesh.joined {
		t.Error("it was away for four seconds and acts as if nothing had been")
	}
	s.run(100*time.Millisecond, nil)
	if n.mesh.joined {
		t.Error("it didn't wait for a node that it takes for living")
	}
	s.run(time.Second, nil)
	if !n.mesh.joined || s.alive(0, 1) || !s.alive(0, 2) {
		t.Errorf("joined %v, node-1 lives %v, node-2 lives %v", n.mesh.joined, s.alive(0, 1), s.alive(0, 2))
	}
}

func claims(n int) (out []Claim) {
	a := netip.MustParseAddr("2001:db8::1")
	for i := range n {
		out = append(out, Claim{Address: a, Term: uint64(i), Since: time.Unix(int64(i), 0)})
		a = a.Next()
	}
	return out
}

// LB-03: a restart that is quick enough isn't a death; the claims of the run before stand
// until the new one has told its own.
func TestQuickRestart(t *testing.T) {
	s := newSim(t, 3)
	s.run(time.Second, nil)
	s.say(0, Word{Ready: true, Claims: claims(3)})
	s.run(100*time.Millisecond, nil)
	for range 20 {
		s.nodes[0].asleep = true
		s.run(150*time.Millisecond, nil)
		s.start(0)
		s.nodes[0].mesh.say(s.now, Word{Claims: claims(3)})
		s.run(time.Second, func() {
			for _, i := range []int{1, 2} {
				if p := s.nodes[i].mesh.peers[name(0)]; !p.alive || len(p.word.Claims) != 3 {
					t.Fatalf("%s takes it for living: %v, with %d claims", name(i), p.alive, len(p.word.Claims))
				}
			}
		})
		if p := s.nodes[1].mesh.peers[name(0)]; p.run != s.nodes[0].mesh.run {
			t.Fatal("the new run isn't known")
		}
	}
}

// LB-03: a thousand claims reach all peers, over a bad network too, and every datagram
// fits into a packet of any link.
func TestManyClaims(t *testing.T) {
	s := newSim(t, 3)
	s.loss = 0.1
	largest := 0
	s.sent = func(_, _ int, text []byte) { largest = max(largest, len(text)) }
	s.run(time.Second, nil)
	want := claims(1000)
	s.say(0, Word{Ready: true, Claims: want})
	s.run(time.Second, nil)
	for _, i := range []int{1, 2} {
		got := s.nodes[i].mesh.peers[name(0)].word.Claims
		if len(got) != len(want) || got[999] != want[999] {
			t.Errorf("%s has %d claims", name(i), len(got))
		}
	}
	if largest > maxSize {
		t.Errorf("a datagram of %d bytes", largest)
	}
}

// What was recorded can't be played back: not to keep a dead node alive, not after a
// restart of the sender or of the receiver, not to another node, and not with another key.
func TestReplay(t *testing.T) {
	s := newSim(t, 3)
	var toOne, toTwo [][]byte // from node 0
	s.sent = func(from, to int, text []byte) {
		switch {
		case from == 0 && to == 1:
			toOne = append(toOne, text)
		case from == 0 && to == 2:
			toTwo = append(toTwo, text)
		}
	}
	s.run(2*time.Second, nil)
	s.nodes[0].asleep = true
	play := func(i int, texts [][]byte) {
		for _, text := range texts {
			s.nodes[i].mesh.receive(s.now, text)
		}
		s.nodes[i].mesh.out = nil
	}
	s.run(time.Second, func() { play(1, toOne[max(0, len(toOne)-20):]); play(2, toOne) })
	if s.alive(1, 0) || s.alive(2, 0) {
		t.Error("a recording kept a dead node alive")
	}
	s.start(1)
	s.run(time.Second, func() {
		play(1, toOne)
		play(1, toTwo)
		if s.alive(1, 0) {
			t.Fatal("a recording made for another run of the receiver is believed")
		}
	})
	old := toTwo
	s.start(0)
	s.run(time.Second, nil)
	run := s.nodes[2].mesh.peers[name(0)].run
	s.run(100*time.Millisecond, func() { play(2, old) })
	if p := s.nodes[2].mesh.peers[name(0)]; p.run != run || !p.alive {
		t.Error("a recording of the sender's former run displaced the present one")
	}
	s.nodes[0].mesh.keys = [][]byte{[]byte("another key, of another cluster.")}
	s.run(time.Second, nil)
	if s.alive(1, 0) {
		t.Error("a node with another key counts")
	}
	if s.nodes[1].mesh.counts.Foreign == 0 {
		t.Error("foreign datagrams aren't counted")
	}
}

// A new key is taken over without a death: it signs once all accept it.
func TestKeyChange(t *testing.T) {
	s := newSim(t, 3)
	s.run(time.Second, nil)
	fresh := []byte("the key that comes after the old")
	all := func() { s.mustAllLive("while the key changes") }
	for _, keys := range [][][]byte{{simKey, fresh}, {fresh, simKey}} {
		for _, n := range s.nodes {
			n.mesh.keys = keys
			s.run(400*time.Millisecond, all)
		}
	}
}
