package nftables

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/dataplane"
)

// A packet goes astray when conntrack knows its flow, of any protocol, from before the frontend
// had a backend: the nat hooks leave such a flow as it is, as long as it has an entry.
// A connection's SYN makes one when it comes while conntrack is at work and the Service isn't
// there; the hooks that a first transaction brings are at work while it is prepared.
// The rules report such packets, and strays deletes the entries.

// astray leads packets of flows that began before their frontend had a backend to
// strayChain. What was translated doesn't come here. Nor does a flow's first packet, which has
// no entry yet: a backend that is its own frontend (a node's address, at the same port) needs no
// translation. What this node sends itself comes by lo once more, with its entry, after its first
// packet has been here.
func astray(frontend []expr, set string) ruleSpec {
	const lo = 1
	known := append(conntrackHas(unix.NFT_CT_STATUS, statusConfirmed), loadMeta(unix.NFT_META_IIF, word(0)), compareWord(unix.NFT_CMP_NEQ, lo))
	// The code has no meaning here. Older kernels refuse a lookup in a map that
	// nobody uses the result of, which is how nft would load the rule.
	return rule("began before there was a backend", known, frontend, one(mapTo(set), keepCode(), goTo(strayChain)))
}

// reportStray has the agent delete the flow's entry. The first packet of a connection is
// dropped, because where it led before it may be refused, and its repetition (RFC 6298: after
// a second) finds a backend. A datagram goes where those before it went, but not to a frontend
// that drops what comes from outside: whether this one does isn't known here, and nothing on
// this node serves it. The next one is a new flow, which is served or dropped.
func reportStray(dropped []ruleSpec) chainSpec {
	notUDP := one(transportProtocol(word(0)), compare(unix.NFT_CMP_NEQ, word(0), []byte{unix.IPPROTO_UDP}))
	return chainSpec{name: strayChain, rules: append([]ruleSpec{
		rule("", forgetCode(), one(logRecord(strayGroup))),
		counted(dataplane.Astray, rule("its repetition finds a backend", notUDP, one(drop()))),
	}, dropped...)}
}

const (
	// maxStrays is how many are ended in one go: the others come again.
	maxStrays = 1024
	// straysBuffer holds some 500 records.
	straysBuffer = 1 << 20
)

// strays ends flows that go astray.
type strays struct {
	log     *slog.Logger
	closing chan struct{}
	done    chan struct{}

	mu      sync.Mutex    // guards the following
	records *recordSocket // to wait at its file needs no lock
	ct      *conn         // to conntrack
	found   map[record]bool
}

// newStrays opens the sockets in the calling thread's network namespace.
func newStrays(log *slog.Logger) (*strays, error) {
	s := &strays{log: log, closing: make(chan struct{}), done: make(chan struct{}), found: map[record]bool{}}
	var err error
	if s.ct, err = openConn(); err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	if s.records, err = openRecords(strayGroup, straysBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("records of packets that go astray: %w", err), s.ct.close())
	}
	go s.run()
	return s, nil
}

func (s *strays) close() error {
	close(s.closing)
	err := s.records.file.Close()
	<-s.done
	return errors.Join(err, s.ct.close())
}

// follow has records come, if they don't yet.
func (s *strays) follow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.records.bind(s.take); err != nil {
		s.log.Warn("connections that began before their Service can't be led to it", "err", err)
	}
}

func (s *strays) take(r record) {
	if len(s.found) < maxStrays {
		s.found[r] = true
	}
}

// run takes records as they come.
func (s *strays) run() {
	defer close(s.done)
	for {
		if err := s.records.raw.Read(func(fd uintptr) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.records.drain(int(fd), s.take, func(string) {})
		}); err != nil {
			return // closed
		}
		if err := s.end(); err != nil {
			s.log.Warn("ending flows that began before their Service failed", "err", err)
		}
		select {
		case <-time.After(recordPause):
		case <-s.closing:
			return
		}
	}
}

// end deletes the entries of what was found, where they lead to no backend.
func (s *strays) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var flows []flow
	for r := range s.found {
		flows = append(flows, flow{protocol: r.protocol, client: r.client, door: r.door})
	}
	clear(s.found)
	if err := s.ct.askFlows(flows); err != nil {
		return fmt.Errorf("ask conntrack: %w", err)
	}
	flows = slices.DeleteFunc(flows, func(fl flow) bool { return !fl.exists || fl.backend != fl.door })
	if err := s.ct.deleteFlows(flows); err != nil {
		return fmt.Errorf("delete conntrack entries: %w", err)
	}
	return nil
}
