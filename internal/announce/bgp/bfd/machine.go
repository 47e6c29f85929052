package bfd

import "time"

// slow is the fastest that a session which isn't up may send (RFC 5880, section 6.8.3).
const slow = time.Second

// machine is the state of one session (RFC 5880, section 6.8). It is pure: packets and
// times go in.
type machine struct {
	receive, transmit time.Duration
	multiplier        uint8
	passive           bool

	state       State
	diagnostic  Diagnostic
	mine, yours uint32
	polling     bool // until the other side has confirmed our pace

	// As the other side has said.
	minRx, minTx time.Duration
	times        uint8

	deadline time.Time // when it was silent for too long; zero: nothing is expected
	spared   bool      // the deadline was put off once
}

// desired is the pace that we would like to send at.
func (m *machine) desired() time.Duration {
	if m.state == Up {
		return m.transmit
	}
	return max(m.transmit, slow)
}

// pace is the time between two packets, before jitter; 0: none are to be sent.
func (m *machine) pace() time.Duration {
	if m.yours != 0 && m.minRx == 0 || m.yours == 0 && m.passive || m.state == AdminDown {
		return 0
	}
	return max(m.desired(), m.minRx)
}

// detection is the time of silence that ends the session.
func (m *machine) detection() time.Duration {
	return time.Duration(m.times) * max(m.receive, m.minTx)
}

// take changes the state by a packet. It tells whether the state changed.
func (m *machine) take(p packet, now time.Time) bool {
	if m.state == AdminDown {
		return false
	}
	m.yours, m.minRx, m.minTx, m.times = p.Mine, p.MinRx, p.MinTx, p.Multiplier
	if p.Final {
		m.polling = false
	}
	m.deadline, m.spared = now.Add(m.detection()), false
	before := m.state
	switch p.State {
	case AdminDown:
		if m.state != Down {
			m.down(NeighborDown)
		}
	case Down:
		switch m.state {
		case Down:
			m.state = Init
		case Up:
			m.down(NeighborDown)
		}
	case Init:
		if m.state != Up {
			m.up()
		}
	case Up:
		if m.state == Init {
			m.up()
		}
	}
	return m.state != before
}

func (m *machine) up() {
	m.state, m.diagnostic = Up, noDiagnostic
	m.polling = true // our pace changes from slow
}

func (m *machine) down(why Diagnostic) {
	m.state, m.diagnostic, m.polling = Down, why, false
}

// silence looks whether the other side was silent for too long, and tells whether the state
// changed. Who looks much too late has slept itself, and what came in meanwhile may wait
// unread: then there is one interval more.
func (m *machine) silence(now time.Time) bool {
	if m.deadline.IsZero() || now.Before(m.deadline) {
		return false
	}
	if pace := max(m.receive, m.minTx); !m.spared && now.Sub(m.deadline) > pace {
		m.deadline, m.spared = now.Add(pace), true
		return false
	}
	m.deadline, m.yours, m.minRx = time.Time{}, 0, 0
	if m.state != Init && m.state != Up {
		return false
	}
	m.down(detectionExpired)
	return true
}

// packet gives what is to be sent now.
func (m *machine) packet(final bool) packet {
	return packet{
		State: m.state, Diagnostic: m.diagnostic, Poll: m.polling && !final, Final: final, Multiplier: m.multiplier,
		Mine: m.mine, Yours: m.yours, MinTx: m.desired(), MinRx: m.receive,
	}
}
