package nftables

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// Registers: four of 16 bytes, whose words have numbers of their own from 8 on
// (NFT_REG32_00 is the first word of NFT_REG_1). The kernel shows a word that
// begins a large register by the large one's number, so word does likewise.
const verdictRegister = unix.NFT_REG_VERDICT

func word(n int) uint32 {
	if n%4 == 0 {
		return uint32(unix.NFT_REG_1 + n/4)
	}
	return uint32(unix.NFT_REG32_00 + n)
}

// expr appends one expression to a rule.
type expr func(*attrs)

func expression(name string, fill func(*attrs)) expr {
	return func(a *attrs) {
		a.nest(unix.NFTA_LIST_ELEM, func(a *attrs) {
			a.string(unix.NFTA_EXPR_NAME, name)
			if fill != nil {
				a.nest(unix.NFTA_EXPR_DATA, fill)
			}
		})
	}
}

func payload(base, offset, length uint32, reg uint32) expr {
	return expression("payload", func(a *attrs) {
		a.u32(unix.NFTA_PAYLOAD_DREG, reg)
		a.u32(unix.NFTA_PAYLOAD_BASE, base)
		a.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		a.u32(unix.NFTA_PAYLOAD_LEN, length)
	})
}

// destinationPort loads bytes 2 and 3 of the transport header, where TCP, UDP
// and SCTP all have it.
func destinationPort(reg uint32) expr { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg) }

func sourcePort(reg uint32) expr { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, reg) }

func transportProtocol(reg uint32) expr { return loadMeta(unix.NFT_META_L4PROTO, reg) }

func loadMeta(key, reg uint32) expr {
	return expression("meta", func(a *attrs) {
		a.u32(unix.NFTA_META_KEY, key)
		a.u32(unix.NFTA_META_DREG, reg)
	})
}

// keepCode puts the code at the first word into the packet's priority, the one
// field that a later rule can read and that nobody looks at between the hook and
// forgetCode: registers don't outlive their rule.
func keepCode() expr { return setPriority() }

func forgetCode() []expr { return []expr{load(word(0), make([]byte, 4)), setPriority()} }

func loadCode() expr { return loadMeta(unix.NFT_META_PRIORITY, word(0)) }

func setPriority() expr {
	return expression("meta", func(a *attrs) {
		a.u32(unix.NFTA_META_KEY, unix.NFT_META_PRIORITY)
		a.u32(unix.NFTA_META_SREG, word(0))
	})
}

func compare(op uint32, reg uint32, value []byte) expr {
	return expression("cmp", func(a *attrs) {
		a.u32(unix.NFTA_CMP_SREG, reg)
		a.u32(unix.NFTA_CMP_OP, op)
		a.nest(unix.NFTA_CMP_DATA, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, value) })
	})
}

func isProtocol(proto byte) []expr {
	return []expr{transportProtocol(word(0)), compare(unix.NFT_CMP_EQ, word(0), []byte{proto})}
}

// conntrack loads a key and leaves the rule unless one of bits is set in it.
func conntrackHas(key, bits uint32) []expr {
	zero := make([]byte, 4)
	return []expr{
		expression("ct", func(a *attrs) {
			a.u32(unix.NFTA_CT_KEY, key)
			a.u32(unix.NFTA_CT_DREG, word(0))
		}),
		mask(word(0), binary.NativeEndian.AppendUint32(nil, bits)),
		compare(unix.NFT_CMP_NEQ, word(0), zero),
	}
}

// mask keeps the bits of a register that are set in bits.
func mask(reg uint32, bits []byte) expr {
	return expression("bitwise", func(a *attrs) {
		a.u32(unix.NFTA_BITWISE_SREG, reg)
		a.u32(unix.NFTA_BITWISE_DREG, reg)
		a.u32(unix.NFTA_BITWISE_LEN, uint32(len(bits)))
		a.nest(unix.NFTA_BITWISE_MASK, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, bits) })
		a.nest(unix.NFTA_BITWISE_XOR, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, make([]byte, len(bits))) })
	})
}

// fib asks the routing table about the packet; the answer is at the first word.
func fib(result, flags uint32) expr {
	return expression("fib", func(a *attrs) {
		a.u32(unix.NFTA_FIB_DREG, word(0))
		a.u32(unix.NFTA_FIB_RESULT, result)
		a.u32(unix.NFTA_FIB_FLAGS, flags)
	})
}

// compareWord compares the first word with a number in host order.
func compareWord(op, value uint32) expr {
	return compare(op, word(0), binary.NativeEndian.AppendUint32(nil, value))
}

// dynset changes a map by the packet: the key is at the first word, the data at
// word data.
func dynset(op uint32, set string, data int, timeout time.Duration) expr {
	return expression("dynset", func(a *attrs) {
		a.string(unix.NFTA_DYNSET_SET_NAME, set)
		a.u32(unix.NFTA_DYNSET_OP, op)
		a.u32(unix.NFTA_DYNSET_SREG_KEY, word(0))
		a.u32(unix.NFTA_DYNSET_SREG_DATA, word(data))
		if timeout > 0 {
			a.bytes(unix.NFTA_DYNSET_TIMEOUT, binary.BigEndian.AppendUint64(nil, uint64(timeout.Milliseconds())))
		}
	})
}

// Bits of ct state (NF_CT_STATE_BIT) and ct status (linux/netfilter/nf_conntrack_common.h).
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateNew         = 8
	statusConfirmed  = 1 << 3 // it has an entry: a packet of it went all the way
	statusDNAT       = 1 << 5
)

func newConnection() []expr { return conntrackHas(unix.NFT_CT_STATE, stateNew) }
func invalidPacket() []expr { return conntrackHas(unix.NFT_CT_STATE, stateInvalid) }
func wasTranslated() []expr { return conntrackHas(unix.NFT_CT_STATUS, statusDNAT) }
func establishedConnection() []expr {
	return conntrackHas(unix.NFT_CT_STATE, stateEstablished)
}
func drop() expr             { return verdictNow(verdictDrop, "") }
func jump(chain string) expr { return verdictNow(verdictJump, chain) }
func goTo(chain string) expr { return verdictNow(verdictGoto, chain) }

// Verdict codes (linux/netfilter/nf_tables.h: enum nft_verdicts).
const (
	verdictDrop   = 0
	verdictAccept = 1
	verdictJump   = uint32(0xfffffffd) // -3
	verdictGoto   = uint32(0xfffffffc) // -4
	verdictReturn = uint32(0xfffffffb) // -5
)

func verdictData(a *attrs, code uint32, chain string) {
	a.nest(unix.NFTA_DATA_VERDICT, func(a *attrs) {
		a.u32(unix.NFTA_VERDICT_CODE, code)
		if chain != "" {
			a.string(unix.NFTA_VERDICT_CHAIN, chain)
		}
	})
}

func verdictNow(code uint32, chain string) expr {
	return expression("immediate", func(a *attrs) {
		a.u32(unix.NFTA_IMMEDIATE_DREG, verdictRegister)
		a.nest(unix.NFTA_IMMEDIATE_DATA, func(a *attrs) { verdictData(a, code, chain) })
	})
}

func load(reg uint32, value []byte) expr {
	return expression("immediate", func(a *attrs) {
		a.u32(unix.NFTA_IMMEDIATE_DREG, reg)
		a.nest(unix.NFTA_IMMEDIATE_DATA, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, value) })
	})
}

// inSet leaves the rule unless the key at the first word is in a set; mapTo puts the element's data at the first word; verdictOf follows it.
func inSet(set string) expr     { return lookup(set, nil) }
func mapTo(set string) expr     { r := word(0); return lookup(set, &r) }
func verdictOf(set string) expr { r := uint32(verdictRegister); return lookup(set, &r) }

func lookup(set string, dreg *uint32) expr {
	return expression("lookup", func(a *attrs) {
		a.string(unix.NFTA_LOOKUP_SET, set)
		a.u32(unix.NFTA_LOOKUP_SREG, word(0))
		if dreg != nil {
			a.u32(unix.NFTA_LOOKUP_DREG, *dreg)
		}
		a.u32(unix.NFTA_LOOKUP_FLAGS, 0) // or a rule that inverts it would look the same
	})
}

func random(modulus int, reg uint32) expr {
	return expression("numgen", func(a *attrs) {
		a.u32(unix.NFTA_NG_DREG, reg)
		a.u32(unix.NFTA_NG_MODULUS, uint32(modulus))
		a.u32(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
		a.u32(unix.NFTA_NG_OFFSET, 0)
	})
}

// toAddressAndPort is destination NAT to the address at the first word and the
// port at word port.
func toAddressAndPort(family uint8, port int) expr {
	return expression("nat", func(a *attrs) {
		a.u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		a.u32(unix.NFTA_NAT_FAMILY, uint32(family))
		a.u32(unix.NFTA_NAT_REG_ADDR_MIN, word(0))
		a.u32(unix.NFTA_NAT_REG_PROTO_MIN, word(port))
	})
}

// fromAddress is source NAT to the address at the first word.
func fromAddress(family uint8) expr {
	return expression("nat", func(a *attrs) {
		a.u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT)
		a.u32(unix.NFTA_NAT_FAMILY, uint32(family))
		a.u32(unix.NFTA_NAT_REG_ADDR_MIN, word(0))
	})
}

func masquerade() expr { return expression("masq", nil) }

func rejectReset() expr {
	return expression("reject", func(a *attrs) { a.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST) })
}

func rejectICMP(code byte) expr {
	return expression("reject", func(a *attrs) {
		a.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMP_UNREACH)
		a.bytes(unix.NFTA_REJECT_ICMP_CODE, []byte{code})
	})
}
