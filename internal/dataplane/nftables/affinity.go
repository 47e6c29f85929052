package nftables

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// The rules of session affinity; sessions.go has the elements. A packet's
// priority carries the session's number from rule to rule, with a backend's
// number once there is one.

// affinityKey loads "session . client" for the map affinity: the session is the
// upper half of the handle that is in the priority. It gives the number of
// words.
func (f *family) affinityKey() ([]expr, int) {
	return append(sessionOfPriority(), f.sourceAddress(1)), 1 + f.addrLen/4
}

// sessionOfPriority loads the priority without a backend's number at the first
// word.
func sessionOfPriority() []expr {
	const sessionBits = 0xffff0000
	return one(loadCode(), mask(word(0), binary.NativeEndian.AppendUint32(nil, sessionBits)))
}

// stickyChain draws like drawChain, but for clients that have a live backend.
func (f *family) stickyChain(t target) chainSpec {
	frontend, _ := f.frontend(t.kind == nodeCluster || t.kind == nodeLocal)
	return chainSpec{name: t.chain(), rules: []ruleSpec{
		rule("the session", frontend, one(mapTo(t.sessions()), keepCode())),
		rule("the client's backend", one(loadCode(), f.sourceAddress(1), mapTo(affinityMap), keepCode(), jump(forgetDeadChain))),
		rule("", one(loadCode(), inSet(sessionLiveSet), goTo(t.remembering().chain()))),
		rule("any backend", sessionOfPriority(), one(random(t.count, word(1)), mapTo(sessionSlotsMap), keepCode())),
		rule("", one(goTo(t.remembering().chain()))),
	}}
}

const forgetDeadChain = "forget-dead"

// dynsetDelete is NFT_DYNSET_OP_DELETE (linux/netfilter/nf_tables.h, since 5.7).
const dynsetDelete = 2

// forgetDead deletes the client's entry when its backend is no more: an update
// would keep what is there.
func (f *family) forgetDead() chainSpec {
	key, words := f.affinityKey()
	return chainSpec{name: forgetDeadChain, rules: []ruleSpec{
		rule("", one(loadCode(), inSet(sessionLiveSet), verdictNow(verdictReturn, ""))),
		rule("", key, one(loadMeta(unix.NFT_META_PRIORITY, word(words)), dynset(dynsetDelete, affinityMap, words, 0))),
	}}
}

// rememberChain starts the client's time anew and translates the destination to
// the backend in the priority. Of two first connections at once the one
// that comes later follows what the earlier one remembered. The map being full
// ends the first rule and nothing else.
func (f *family) rememberChain(t target) chainSpec {
	key, words := f.affinityKey()
	return chainSpec{name: t.chain(), rules: []ruleSpec{
		rule("", key, one(loadMeta(unix.NFT_META_PRIORITY, word(words)), dynset(unix.NFT_DYNSET_OP_UPDATE, affinityMap, words, time.Duration(t.affinity)*time.Second))),
		rule("", key, one(mapTo(affinityMap), keepCode())),
		// The protocol says nothing more, but nft loads a rule that translates to a
		// port only if it looks at one.
		rule("", one(loadCode(), transportProtocol(word(1)), mapTo(sessionBackendsMap), toAddressAndPort(f.nf, f.addrLen/4))),
	}}
}

// forgetHandle takes the handle from the priority of a translated packet again, after
// the hook in which rememberChain left it. Most packets have none.
func forgetHandle() ruleSpec {
	return rule("", one(loadCode(), compare(unix.NFT_CMP_NEQ, word(0), make([]byte, 4)), loadCode(), inSet(sessionLiveSet)), forgetCode())
}
