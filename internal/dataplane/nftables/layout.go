package nftables

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Names of the sets and maps. In docs/dataplane.md stands what each is for.
const (
	servicesMap            = "services"
	nodePortsMap           = "node-ports"
	outsideServicesMap     = "outside-services"
	outsideNodePortsMap    = "outside-node-ports"
	choicesMap             = "choices"
	clusterBackendsMap     = "cluster-backends"
	localBackendsMap       = "local-backends"
	nodeClusterBackendsMap = "node-cluster-backends"
	nodeLocalBackendsMap   = "node-local-backends"

	clusterSessionsMap     = "cluster-sessions"
	localSessionsMap       = "local-sessions"
	nodeClusterSessionsMap = "node-cluster-sessions"
	nodeLocalSessionsMap   = "node-local-sessions"
	sessionSlotsMap        = "session-slots"
	sessionBackendsMap     = "session-backends"
	sessionLiveSet         = "session-live"
	affinityMap            = "affinity"

	refusedServicesSet  = "refused-services"
	refusedNodePortsSet = "refused-node-ports"
	droppedServicesSet  = "dropped-services"
	droppedNodePortsSet = "dropped-node-ports"

	clusterIPsSet     = "cluster-ips"
	nodeAddressesSet  = "node-addresses"
	hairpinSet        = "hairpin"
	remoteBackendsSet = "remote-backends"
	serviceRangesSet  = "service-ranges"
	workloadRangesSet = "workload-ranges"

	guardedServicesSet = "guarded-services"
	loadBalancerIPsSet = "load-balancer-ips"
	externalIPsSet     = "external-ips"
	admittedSetsNamed  = "admitted-" // and the length of prefixes

	guardChain    = "guard"
	refuseChain   = "refuse"
	turnAwayChain = "turn-away"
	// translatedChain has what concerns first packets that a frontend took.
	translatedChain = "translated"
	// toBackendsChain has what concerns the sources of those, itselfChain the part that
	// workloads meet too.
	toBackendsChain = "to-backends"
	itselfChain     = "reaches-itself"
	strayChain      = "astray"
	leaveChain      = "leave"
)

// Data types of nft(8) (nftables' datatype.h); a concatenation has six bits for
// each. nft reads them to print elements, the kernel doesn't.
const (
	typeInteger = 4
	typeIPv4    = 7
	typeIPv6    = 8
	typeProto   = 12
	typeService = 13
	typeClassID = 23
	typeVerdict = 0xffffff00
)

func concat(types ...uint32) (t uint32) {
	for _, one := range types {
		t = t<<6 | one
	}
	return t
}

// family is one of the two tables: what differs between IPv4 and IPv6.
type family struct {
	nf                 uint8 // NFPROTO_*
	name               string
	any                netip.Addr
	addrType           uint32
	addrLen            int
	source, dest       uint32 // offsets of the addresses in the network header
	portUnreachable    byte
	ipDesc, daddrField uint32 // nft's own numbers of "ip daddr", see typeof
	sets               []setSpec
	lengths            []int // of the prefixes in source ranges, sorted
	clients            int   // that session affinity remembers at most
	resets             bool  // connections to backends that are gone
}

// limits is what the fixed part depends on.
type limits struct {
	lengths [2][]int // of the prefixes in source ranges, by family
	clients int      // that session affinity remembers at most
}

// newFamilies gives the two families, 4 before 6.
func newFamilies(l limits) [2]*family {
	v4 := &family{
		nf: unix.NFPROTO_IPV4, name: "ip", any: netip.IPv4Unspecified(), addrType: typeIPv4, addrLen: 4,
		source: 12, dest: 16, // RFC 791
		portUnreachable: 3, // RFC 792
		ipDesc:          12, daddrField: 12,
	}
	v6 := &family{
		nf: unix.NFPROTO_IPV6, name: "ip6", any: netip.IPv6Unspecified(), addrType: typeIPv6, addrLen: 16,
		source: 8, dest: 24, // RFC 8200
		portUnreachable: 4, // RFC 4443
		ipDesc:          13, daddrField: 9,
	}
	for i, f := range []*family{v4, v6} {
		f.lengths, f.clients = l.lengths[i], l.clients
		f.sets = f.allSets()
	}
	return [2]*family{v4, v6}
}

// setSpec is one set or map.
type setSpec struct {
	name      string
	flags     uint32
	keyType   uint32
	keyLen    int
	dataType  uint32
	dataLen   int
	userData  []byte
	size      int  // the most elements; 0: no limit
	frontends bool // keys are frontends
	slots     bool // keys are frontends and end with a slot, data are backends
	nodePort  bool // frontends' keys have no address
	admitted  bool // keys are a source prefix and a frontend
	dynamic   bool // packets fill it, we never read it
}

func (f *family) allSets() []setSpec {
	frontends := func(name string, nodePort bool) setSpec {
		s := setSpec{name: name, keyType: concat(f.addrType, typeProto, typeService), keyLen: f.addrLen + 8, nodePort: nodePort, frontends: true}
		if nodePort {
			s.keyType, s.keyLen = concat(typeProto, typeService), 8
		}
		return s
	}
	codes := func(name string, nodePort bool) setSpec {
		s := frontends(name, nodePort)
		s.flags, s.dataType, s.dataLen, s.userData = unix.NFT_SET_MAP, typeClassID, 4, byteOrders(networkOrder, hostOrder)
		return s
	}
	backends := func(name string, nodePort bool) setSpec {
		s := setSpec{
			name: name, flags: unix.NFT_SET_MAP, keyType: concat(f.addrType, typeProto, typeService, typeInteger), keyLen: f.addrLen + 12,
			dataType: concat(f.addrType, typeService), dataLen: f.addrLen + 4, nodePort: nodePort, slots: true, userData: f.typeof(nodePort),
		}
		if nodePort {
			s.keyType, s.keyLen = concat(typeProto, typeService, typeInteger), 12
		}
		return s
	}
	addresses := func(name string, flags uint32) setSpec {
		return setSpec{name: name, flags: flags, keyType: f.addrType, keyLen: f.addrLen}
	}
	all := []setSpec{
		codes(servicesMap, false), codes(nodePortsMap, true), codes(outsideServicesMap, false), codes(outsideNodePortsMap, true),
		{name: choicesMap, flags: unix.NFT_SET_MAP, keyType: typeClassID, keyLen: 4, dataType: typeVerdict, userData: byteOrders(hostOrder, networkOrder)},
		frontends(refusedServicesSet, false), frontends(refusedNodePortsSet, true),
		frontends(droppedServicesSet, false), frontends(droppedNodePortsSet, true),
		backends(clusterBackendsMap, false), backends(nodeClusterBackendsMap, true),
		backends(localBackendsMap, false), backends(nodeLocalBackendsMap, true),
		addresses(clusterIPsSet, 0), addresses(nodeAddressesSet, 0), addresses(remoteBackendsSet, 0),
		{name: hairpinSet, keyType: concat(f.addrType, f.addrType), keyLen: 2 * f.addrLen},
		addresses(serviceRangesSet, unix.NFT_SET_INTERVAL), addresses(workloadRangesSet, unix.NFT_SET_INTERVAL),
		codes(clusterSessionsMap, false), codes(nodeClusterSessionsMap, true),
		codes(localSessionsMap, false), codes(nodeLocalSessionsMap, true),
		{
			name: sessionSlotsMap, flags: unix.NFT_SET_MAP, keyType: concat(typeClassID, typeInteger), keyLen: 8,
			dataType: typeClassID, dataLen: 4, userData: typeofSessionSlots(),
		},
		{
			name: sessionBackendsMap, flags: unix.NFT_SET_MAP, keyType: concat(typeClassID, typeProto), keyLen: 8,
			dataType: concat(f.addrType, typeService), dataLen: f.addrLen + 4,
		},
		{name: sessionLiveSet, keyType: typeClassID, keyLen: 4, userData: byteOrders(hostOrder, 0)},
		{
			name: affinityMap, flags: unix.NFT_SET_MAP | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, dynamic: true, size: f.clients,
			keyType: concat(typeClassID, f.addrType), keyLen: 4 + f.addrLen, dataType: typeClassID, dataLen: 4,
			userData: byteOrders(networkOrder, hostOrder),
		},
		frontends(guardedServicesSet, false), addresses(loadBalancerIPsSet, 0), addresses(externalIPsSet, 0),
		{name: endedSet, keyType: concat(f.addrType, f.addrType, typeService), keyLen: 2*f.addrLen + 4},
	}
	for _, bits := range f.lengths {
		all = append(all, f.admittedSet(bits))
	}
	return all
}

func (f *family) set(name string) *setSpec {
	for i := range f.sets {
		if f.sets[i].name == name {
			return &f.sets[i]
		}
	}
	panic("nftables: no set " + name) // a name is a constant of this file
}

// Expressions that depend on the family, and the concatenations of map keys.

func (f *family) sourceAddress(w int) expr {
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, uint32(f.addrLen), word(w))
}

func (f *family) destAddress(w int) expr {
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.dest, uint32(f.addrLen), word(w))
}

// frontend loads a frontend's key and gives the number of words it fills.
func (f *family) frontend(nodePort bool) ([]expr, int) {
	if nodePort {
		return []expr{transportProtocol(word(0)), destinationPort(word(1))}, 2
	}
	w := f.addrLen / 4
	return []expr{f.destAddress(0), transportProtocol(word(w)), destinationPort(word(w + 1))}, w + 2
}

// onDemand gives the rules of a chain that isn't always there.
func (f *family) onDemand(t target) chainSpec {
	switch {
	case t.kind == remember:
		return f.rememberChain(t)
	case t.affinity > 0:
		return f.stickyChain(t)
	}
	return f.drawChain(t)
}

// drawChain draws one of count slots at random and translates the destination to
// what the slot holds.
func (f *family) drawChain(t target) chainSpec {
	key, w := f.frontend(t.kind == nodeCluster || t.kind == nodeLocal)
	draw := append(key, random(t.count, word(w)), mapTo(t.backends()), toAddressAndPort(f.nf, f.addrLen/4))
	return chainSpec{name: t.chain(), rules: []ruleSpec{rule("", forgetCode(), draw)}}
}

// typeof is nft's own description of a backend map's key and data (user data
// of the set): only with it can nft name the slot's "integer" of 32 bits, and
// load again what it printed. It is what nft 1.0.6 writes for
// "typeof ip daddr . meta l4proto . th dport . numgen random mod 16 : ip daddr . th dport"
// (struct expr_ops.build_udata); the modulus there has no meaning.
func (f *family) typeof(nodePort bool) []byte {
	const transportHeader, transportPort = 11, 2
	ipAddr := userExpr(exprPayload, f.ipDesc, f.daddrField)
	port := userExpr(exprPayload, transportHeader, transportPort)
	key := [][]byte{ipAddr, userExpr(exprMeta, unix.NFT_META_L4PROTO), port, userExpr(exprNumgen, unix.NFT_NG_RANDOM, 16, 0)}
	if nodePort {
		key = key[1:]
	}
	var out []byte
	out = userTLV(out, keyTypeof, userConcat(exprConcat, key))
	return userTLV(out, dataTypeof, userConcat(exprConcat, [][]byte{ipAddr, port}))
}

// Numbers of nft's own: NFTNL_UDATA_SET_* and enum expr_types.
const (
	keyTypeof, dataTypeof  = 3, 4
	exprPayload, exprMeta  = 7, 9
	exprConcat, exprNumgen = 13, 23
)

// Byte orders by nft's numbers (enum byteorder).
const hostOrder, networkOrder = 1, 2

// byteOrders is nft's note of the order of a set's keys and of a map's data (0: it has none).
// Without it nft takes data for big-endian numbers, and prints and loads
// classes wrong. The fields of a concatenation have their own order in any case.
func byteOrders(key, data uint32) []byte {
	const keyByteOrder, dataByteOrder = 0, 1 // NFTNL_UDATA_SET_*
	out := userTLV(nil, keyByteOrder, binary.NativeEndian.AppendUint32(nil, key))
	if data != 0 {
		out = userTLV(out, dataByteOrder, binary.NativeEndian.AppendUint32(nil, data))
	}
	return out
}

// typeofSessionSlots is likewise
// "typeof meta priority . numgen random mod 16 : meta priority".
func typeofSessionSlots() []byte {
	priority := userExpr(exprMeta, unix.NFT_META_PRIORITY)
	out := userTLV(byteOrders(networkOrder, hostOrder), keyTypeof, userConcat(exprConcat, [][]byte{priority, userExpr(exprNumgen, unix.NFT_NG_RANDOM, 16, 0)}))
	return userTLV(out, dataTypeof, priority)
}

// userTLV is libnftnl's udata: a byte of type, a byte of length, the value.
func userTLV(b []byte, typ byte, value []byte) []byte {
	return append(append(b, typ, byte(len(value))), value...)
}

// userExpr is an expression's number and its attributes, all 32 bits in host
// order.
func userExpr(kind uint32, fields ...uint32) []byte {
	var data []byte
	for i, v := range fields {
		data = userTLV(data, byte(i), binary.NativeEndian.AppendUint32(nil, v))
	}
	return userTLV(userTLV(nil, 0, binary.NativeEndian.AppendUint32(nil, kind)), 1, data)
}

func userConcat(kind uint32, parts [][]byte) []byte {
	var data []byte
	for i, p := range parts {
		data = userTLV(data, byte(i), p)
	}
	return userTLV(userTLV(nil, 0, binary.NativeEndian.AppendUint32(nil, kind)), 1, data)
}
