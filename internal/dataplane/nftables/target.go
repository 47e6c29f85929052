package nftables

import (
	"encoding/binary"
	"strconv"
	"strings"

	"portico.dev/portico/internal/core/routing"
)

// target is where a frontend's packets go: a backend set of some size, by the
// chain that draws from a set of that size.
//
// The maps of frontends lead to a target's code, a number, and one small map
// (choices) from codes to chains. A map straight from frontends to chains would
// be simpler, but whenever an element that jumps is added the kernel walks all
// elements of all verdict maps, looking for loops (nft_chain_validate): with
// 10,000 Services each added Service would cost some milliseconds.
type target struct {
	kind  targetKind
	count int // of backends
	// affinity is the time in seconds for which a client keeps its backend,
	// 0 for none.
	affinity int
}

// Limits of what a code can hold. With affinity it holds every set that routing
// makes, and the API allows a day at most.
const (
	maxCount       = 1<<16 - 1
	maxStickyCount = routing.MaxBackends
	maxAffinity    = 24 * 60 * 60
)

type targetKind uint16

const (
	nowhere     targetKind = iota // no element
	cluster                       // the cluster set of a service address
	local                         // its local set
	nodeCluster                   // the same of a node port
	nodeLocal
	leave    // the packet as it is
	remember // the backend that the packet's priority names (see sessions.go)
)

// drawNames are the chains' names before the count.
var drawNames = map[targetKind]string{cluster: "cluster-", local: "local-", nodeCluster: "node-cluster-", nodeLocal: "node-local-"}

// forNodePort turns a target of a service address into that of a node port.
func (t target) forNodePort() target {
	switch t.kind {
	case cluster:
		t.kind = nodeCluster
	case local:
		t.kind = nodeLocal
	}
	return t
}

// chain is the name of the chain that serves a target.
func (t target) chain() string {
	switch {
	case t.kind == leave:
		return leaveChain
	case t.kind == remember:
		return rememberName + strconv.Itoa(t.affinity)
	case t.affinity > 0:
		return drawNames[t.kind] + strconv.Itoa(t.count) + affinityName + strconv.Itoa(t.affinity)
	}
	return drawNames[t.kind] + strconv.Itoa(t.count)
}

// The parts of the names of chains of session affinity: "cluster-3-affinity-10800"
// and "remember-10800".
const (
	affinityName = "-affinity-"
	rememberName = "remember-"
)

// code is the target as a number of 32 bits in host order, the kind in the upper
// half. It travels in the packet's priority for three rules, so nft prints it
// like one: "1:3" is the cluster set of three, counts in hexadecimal. With
// affinity it is stickyCodes and more: the kind (from 0), the time and the count as
// the digits of one number, because as bits they would need 34.
func (t target) code() string {
	n := uint32(t.kind)<<16 | uint32(t.count)
	if t.affinity > 0 {
		n = stickyCodes + (uint32(t.kind-cluster)*affinityValues+uint32(t.affinity))*countValues + uint32(t.count)
	}
	return string(binary.NativeEndian.AppendUint32(nil, n))
}

const (
	stickyCodes    = 1 << 20 // above all codes without affinity
	affinityValues = maxAffinity + 1
	countValues    = maxStickyCount + 1

	// The four kinds' codes fit, or this doesn't compile.
	_ = uint32(stickyCodes + 4*affinityValues*countValues)
)

// parseCode is the reverse of code.
func parseCode(s string) (target, bool) {
	if len(s) != 4 {
		return target{}, false
	}
	n := binary.NativeEndian.Uint32([]byte(s))
	if n >= stickyCodes {
		n -= stickyCodes
		kind, rest := n/(affinityValues*countValues), n%(affinityValues*countValues)
		t := target{targetKind(kind) + cluster, int(rest % countValues), int(rest / countValues)}
		return t, t.kind <= nodeLocal && t.affinity > 0
	}
	t := target{kind: targetKind(n >> 16), count: int(n & 0xffff)}
	return t, t.kind > nowhere && t.kind <= leave
}

// drawTarget parses the name of a chain that is made on demand.
func drawTarget(chain string) (target, bool) {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		return n
	}
	if seconds, ok := strings.CutPrefix(chain, rememberName); ok {
		t := target{kind: remember, affinity: number(seconds)}
		return t, t.affinity > 0 && t.chain() == chain
	}
	draw, seconds, sticky := strings.Cut(chain, affinityName)
	at := strings.LastIndexByte(draw, '-') + 1
	n := number(draw[at:])
	for kind, name := range drawNames {
		t := target{kind: kind, count: n}
		if sticky {
			t.affinity = number(seconds)
		}
		if name == draw[:at] && n > 0 && t.chain() == chain {
			return t, true
		}
	}
	return target{}, false
}

// backends names the map that a target's chain draws from.
func (t target) backends() string {
	switch t.kind {
	case cluster:
		return clusterBackendsMap
	case local:
		return localBackendsMap
	case nodeCluster:
		return nodeClusterBackendsMap
	}
	return nodeLocalBackendsMap
}

// sessions names the map from frontends to the sessions of a target's set.
func (t target) sessions() string {
	switch t.kind {
	case cluster:
		return clusterSessionsMap
	case local:
		return localSessionsMap
	case nodeCluster:
		return nodeClusterSessionsMap
	}
	return nodeLocalSessionsMap
}

// choice is the element of the map choices that leads to a target's chain.
func (t target) choice() element {
	return element{key: t.code(), data: string(binary.BigEndian.AppendUint32(nil, verdictGoto)) + t.chain()}
}
