package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

// counted has a rule count the packets that reach its verdict, which refuses them for
// a reason. The counter stands behind all that the rule compares, so that packets
// which go on never meet it.
func counted(why dataplane.Reason, r ruleSpec) ruleSpec {
	r.exprs, r.why = slices.Insert(r.exprs, len(r.exprs)-1, counter()), why
	return r
}

// counter begins at zero. It says nothing of its numbers, so that rules are
// compared without them.
func counter() expr { return expression("counter", nil) }

// packetsOf gives the packets that a rule as the kernel shows it has counted.
func packetsOf(rule []byte) (packets uint64, counts bool) {
	exprs, err := parseAttrs(find(rule, unix.NFTA_RULE_EXPRESSIONS))
	if err != nil {
		return 0, false
	}
	for _, e := range exprs {
		if cString(find(e.payload, unix.NFTA_EXPR_NAME)) == "counter" {
			if n := find(e.payload, unix.NFTA_EXPR_DATA, unix.NFTA_COUNTER_PACKETS); len(n) == 8 {
				return binary.BigEndian.Uint64(n), true
			}
		}
	}
	return 0, false
}

// refusals adds up what the rules of a table have counted. The nth rule of ours that
// counts is the nth of the chain that does, however many others there are: the guard
// has one for each length of prefix. In a chain that somebody has changed nothing is
// known.
func (f *family) refusals(rules map[string][][]byte) dataplane.Refusals {
	out := dataplane.Refusals{}
	for _, c := range f.chains(f.any, nil) {
		var reasons []dataplane.Reason
		for i := range c.rules {
			if why := c.rules[i].why; why != "" {
				reasons = append(reasons, why)
			}
		}
		var packets []uint64
		for _, r := range rules[c.name] {
			if n, ok := packetsOf(r); ok {
				packets = append(packets, n)
			}
		}
		if len(packets) != len(reasons) {
			continue
		}
		for i, why := range reasons {
			out[why] += packets[i]
		}
	}
	return out
}

// Reader reads what the kernel holds of ours and changes nothing. It may be used by
// several goroutines, beside a Backend of any process.
type Reader struct {
	mu    sync.Mutex // guards the following
	conn  *conn
	flows *conntrack.Conn
}

// OpenReader opens the sockets, in the network namespace of the calling thread.
func OpenReader() (*Reader, error) {
	c, err := openConn()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	flows, err := conntrack.Dial(nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open conntrack: %w", err), c.close())
	}
	return &Reader{conn: c, flows: flows}, nil
}

// Close lets go of the sockets.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.flows.Close(), r.conn.close())
}

// Counts gives what the kernel counts by itself. It reads the rules and no element,
// so the number of Services costs nothing.
func (r *Reader) Counts() (dataplane.Counts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out dataplane.Counts
	err := undisturbed(func() error {
		for i, f := range newFamilies(limits{}) {
			rules, err := r.conn.readRules(f)
			if err != nil {
				return err
			}
			out.Refused[i] = f.refusals(rules)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	out.Connections, out.MaxConnections, err = tracked.Use(r.flows)
	return out, err
}
