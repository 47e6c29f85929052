package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// State of a session, RFC 5880 section 4.1.
type State uint8

// The states.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string {
	return [...]string{"AdminDown", "Down", "Init", "Up"}[s&3]
}

// Diagnostic says why a session is down, RFC 5880 section 4.1.
type Diagnostic uint8

const (
	noDiagnostic     Diagnostic = 0
	detectionExpired Diagnostic = 1
	NeighborDown     Diagnostic = 3
	administrative   Diagnostic = 7
)

func (d Diagnostic) String() string {
	switch d {
	case noDiagnostic:
		return ""
	case detectionExpired:
		return "the router was silent for longer than agreed"
	case NeighborDown:
		return "the router says that it is down"
	case administrative:
		return "switched off"
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

const (
	version      = 1
	packetLength = 24

	flagPoll       = 1 << 5
	flagFinal      = 1 << 4
	flagAuthentic  = 1 << 2
	flagMultipoint = 1 << 0
)

// packet is a control packet without authentication, RFC 5880 section 4.1.
type packet struct {
	State        State
	Diagnostic   Diagnostic
	Poll, Final  bool
	Multiplier   uint8
	Mine, Yours  uint32 // discriminators of who sends and of who gets it
	MinTx, MinRx time.Duration
}

func (p *packet) append(b []byte) []byte {
	flags := byte(p.State) << 6
	if p.Poll {
		flags |= flagPoll
	}
	if p.Final {
		flags |= flagFinal
	}
	b = append(b, version<<5|byte(p.Diagnostic), flags, p.Multiplier, packetLength)
	for _, n := range []uint32{p.Mine, p.Yours, uint32(p.MinTx.Microseconds()), uint32(p.MinRx.Microseconds()), 0} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

var errPacket = errors.New("no BFD control packet")

// parse reads one and makes the checks of RFC 5880 section 6.8.6 that need no session.
func parse(b []byte) (packet, error) {
	if len(b) < packetLength || int(b[3]) < packetLength || int(b[3]) > len(b) || b[0]>>5 != version {
		return packet{}, errPacket
	}
	p := packet{
		State: State(b[1] >> 6), Diagnostic: Diagnostic(b[0] & 0x1f),
		Poll: b[1]&flagPoll != 0, Final: b[1]&flagFinal != 0, Multiplier: b[2],
		Mine: binary.BigEndian.Uint32(b[4:]), Yours: binary.BigEndian.Uint32(b[8:]),
		MinTx: time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Microsecond,
		MinRx: time.Duration(binary.BigEndian.Uint32(b[16:])) * time.Microsecond,
	}
	switch {
	case p.Multiplier == 0, p.Mine == 0, b[1]&(flagAuthentic|flagMultipoint) != 0:
		return packet{}, errPacket
	case p.Yours == 0 && p.State != Down && p.State != AdminDown:
		return packet{}, errPacket
	case p.Poll && p.Final:
		return packet{}, errPacket
	}
	return p, nil
}
