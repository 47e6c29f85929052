package dataplane

import (
	"context"
	"net/netip"

	"portico.dev/portico/internal/core/routing"
)

// State is everything a Backend must make true.
type State struct {
	Frontends []*routing.Frontend
	// NodeAddresses are the node's own addresses on which node ports answer.
	NodeAddresses []netip.Addr
	// ServiceRanges are the ranges that cluster IPs are taken from: packets to
	// an address in them that no Service has are dropped.
	ServiceRanges []netip.Prefix
}

// Backend programs the kernel by one technique. Its methods are called from one
// goroutine. Any error leaves the kernel serving (the old state, or a part of
// the new one frontend by frontend) and is mended by the next Sync.
type Backend interface {
	// Sync reads what the kernel holds of ours, from this run or an earlier
	// one, and changes exactly what differs from state.
	Sync(ctx context.Context, state State) error
	// Apply makes a change on top of the last successful call. It is atomic:
	// a packet sees a frontend before or after the change. Its cost depends on
	// the change alone.
	Apply(ctx context.Context, change routing.Change) error
	// Finish does what new connections don't wait for, once after one or more
	// calls of the others: it ends flows that lead to where they no longer should.
	Finish(ctx context.Context) error
	// SetNodeAddresses replaces the node-port addresses at a cost that doesn't
	// depend on the number of node ports.
	SetNodeAddresses(ctx context.Context, addrs []netip.Addr) error
	// Verify reads the kernel and lists in words what differs from state,
	// without changing anything. Nothing listed is the proof that both agree.
	Verify(ctx context.Context, state State) ([]string, error)
	// Cleanup removes exactly what is ours from the kernel.
	Cleanup(ctx context.Context) error
	// Disturbed gets a value when somebody else may have changed what is ours.
	// A nil channel says that the back end can't tell.
	Disturbed() <-chan struct{}
	// Close lets go of the kernel's sockets; packets go on being served.
	Close() error
}
