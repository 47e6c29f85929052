package election

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Claim is a living node's word that it answers for an address.
type Claim struct {
	Node string
	// Term counts the take-overs of the address.
	Term uint64
	// Yields: it answers only until another node does.
	Yields bool
}

// Ballot is all that decides who holds one address.
type Ballot struct {
	Address netip.Addr
	// Candidates are the living nodes that may hold it, in any order.
	Candidates []string
	// Reserve are those that take it when no candidate is left: draining nodes.
	Reserve []string
	// Claims are those of living nodes, candidates or not, in any order.
	Claims []Claim
	// Passed is how many of the elected, in the order of rank, were given the time to take
	// the address and haven't: they see it otherwise.
	Passed int
}

// Why says what made a node the holder.
type Why string

const (
	Claimed Why = "claimed" // it holds the address already
	Yielded Why = "yielded" // it waits for another node, and there is none
	Elected Why = "elected" // nobody else has it, and its rank is best
	Nobody  Why = "nobody"  // no candidate lives
)

// Decision is the outcome. Holder is empty with Nobody.
type Decision struct {
	Holder string
	Why    Why
}

// Decide gives the holder of an address, by the rules in the package's comment.
func Decide(b Ballot) Decision {
	firm, yielding := best(b.Address, b.Claims)
	if firm != "" {
		return Decision{firm, Claimed}
	}
	for _, from := range [][]string{b.Candidates, b.Reserve} {
		ranked := Rank(b.Address, slices.DeleteFunc(slices.Clone(from), func(n string) bool {
			return slices.ContainsFunc(b.Claims, func(c Claim) bool { return c.Node == n && c.Yields })
		}))
		if len(ranked) > 0 {
			return Decision{ranked[b.Passed%len(ranked)], Elected}
		}
	}
	if yielding != "" {
		return Decision{yielding, Yielded}
	}
	return Decision{Why: Nobody}
}

// best gives the node with the best claim, of those that stand and of those that yield.
func best(addr netip.Addr, claims []Claim) (firm, yielding string) {
	ordered := slices.SortedFunc(slices.Values(claims), func(a, b Claim) int {
		if c := cmp.Compare(b.Term, a.Term); c != 0 {
			return c
		}
		return compareRank(addr, a.Node, b.Node)
	})
	for _, c := range ordered {
		switch {
		case c.Yields && yielding == "":
			yielding = c.Node
		case !c.Yields && firm == "":
			firm = c.Node
		}
	}
	return firm, yielding
}

// Rank orders nodes by their right to an address that nobody holds.
func Rank(addr netip.Addr, nodes []string) []string {
	return slices.SortedFunc(slices.Values(nodes), func(a, b string) int { return compareRank(addr, a, b) })
}

func compareRank(addr netip.Addr, a, b string) int {
	return cmp.Or(cmp.Compare(weight(addr, b), weight(addr, a)), cmp.Compare(a, b))
}

// weight is the rendezvous hash of a node and an address. Nodes of different versions
// must agree on it: it never changes.
func weight(addr netip.Addr, node string) uint64 {
	sum := sha256.Sum256(append(addr.AsSlice(), node...))
	return binary.BigEndian.Uint64(sum[:])
}
