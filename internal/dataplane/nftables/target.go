package nftables

import (
	"encoding/binary"
	"strconv"
	"strings"
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
}

// maxCount is the largest count that a code can hold; more backends wait for one
// of the others to leave.
const maxCount = 1<<16 - 1

type targetKind uint16

const (
	nowhere     targetKind = iota // no element
	cluster                       // the cluster set of a service address
	local                         // its local set
	nodeCluster                   // the same of a node port
	nodeLocal
	leave // the packet as it is
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
	if t.kind == leave {
		return leaveChain
	}
	return drawNames[t.kind] + strconv.Itoa(t.count)
}

// code is the target as a number of 32 bits in host order, the kind in the upper
// half. It travels in the packet's priority for three rules, so nft prints it
// like one: "1:3" is the cluster set of three, counts in hexadecimal.
func (t target) code() string {
	return string(binary.NativeEndian.AppendUint32(nil, uint32(t.kind)<<16|uint32(t.count)))
}

// parseCode is the reverse of code.
func parseCode(s string) (target, bool) {
	if len(s) != 4 {
		return target{}, false
	}
	n := binary.NativeEndian.Uint32([]byte(s))
	t := target{targetKind(n >> 16), int(n & 0xffff)}
	return t, t.kind > nowhere && t.kind <= leave
}

// drawTarget parses the name of a draw chain.
func drawTarget(chain string) (target, bool) {
	at := strings.LastIndexByte(chain, '-') + 1
	n, err := strconv.Atoi(chain[at:])
	if err != nil || n <= 0 {
		return target{}, false
	}
	for kind, name := range drawNames {
		if t := (target{kind, n}); name == chain[:at] && t.chain() == chain {
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

// choice is the element of the map choices that leads to a target's chain.
func (t target) choice() element {
	return element{key: t.code(), data: string(binary.BigEndian.AppendUint32(nil, verdictGoto)) + t.chain()}
}
