package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Table is the name of our table in both families.
const Table = "portico"

func (f *family) tableMessage(kind uint16) message {
	m := message{kind: kind, family: f.nf, what: fmt.Sprintf("table %s %s", f.name, Table)}
	m.body.string(unix.NFTA_TABLE_NAME, Table)
	if kind == unix.NFT_MSG_NEWTABLE {
		m.flags = unix.NLM_F_CREATE
		m.body.u32(unix.NFTA_TABLE_FLAGS, 0)
	}
	return m
}

// setMessage creates a set; id is any number that is unique in the transaction.
func (f *family) setMessage(s *setSpec, id int) message {
	m := message{kind: unix.NFT_MSG_NEWSET, family: f.nf, flags: unix.NLM_F_CREATE, what: fmt.Sprintf("add set %s %s", f.name, s.name)}
	m.body.string(unix.NFTA_SET_TABLE, Table)
	m.body.string(unix.NFTA_SET_NAME, s.name)
	m.body = append(m.body, s.definition()...)
	if s.userData != nil {
		m.body.bytes(unix.NFTA_SET_USERDATA, s.userData)
	}
	m.body.u32(unix.NFTA_SET_ID, uint32(id))
	return m
}

// definition is what two sets of one name must have in common: not the user data,
// nft's notes for printing, which it writes in its own way when it loads a list.
func (s *setSpec) definition() (a attrs) {
	if s.flags != 0 { // the kernel doesn't show a zero
		a.u32(unix.NFTA_SET_FLAGS, s.flags)
	}
	a.u32(unix.NFTA_SET_KEY_TYPE, s.keyType)
	a.u32(unix.NFTA_SET_KEY_LEN, uint32(s.keyLen))
	if s.flags&unix.NFT_SET_MAP != 0 {
		a.u32(unix.NFTA_SET_DATA_TYPE, s.dataType)
		if s.dataType != typeVerdict {
			a.u32(unix.NFTA_SET_DATA_LEN, uint32(s.dataLen))
		}
	}
	if s.size != 0 {
		a.nest(unix.NFTA_SET_DESC, func(a *attrs) { a.u32(unix.NFTA_SET_DESC_SIZE, uint32(s.size)) })
	}
	return a
}

// chainMessages creates a chain and its rules.
func (f *family) chainMessages(c *chainSpec) []message {
	m := message{kind: unix.NFT_MSG_NEWCHAIN, family: f.nf, flags: unix.NLM_F_CREATE, what: fmt.Sprintf("add chain %s %s", f.name, c.name)}
	m.body.string(unix.NFTA_CHAIN_TABLE, Table)
	m.body.string(unix.NFTA_CHAIN_NAME, c.name)
	m.body = append(m.body, c.definition()...)
	return append([]message{m}, f.ruleMessages(c)...)
}

// definition is what a chain is besides its name and rules.
func (c *chainSpec) definition() (a attrs) {
	if c.kind == "" {
		return nil
	}
	a.string(unix.NFTA_CHAIN_TYPE, c.kind)
	a.nest(unix.NFTA_CHAIN_HOOK, func(a *attrs) {
		a.u32(unix.NFTA_HOOK_HOOKNUM, c.hook)
		a.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
	})
	a.u32(unix.NFTA_CHAIN_POLICY, verdictAccept)
	return a
}

func (f *family) ruleMessages(c *chainSpec) (msgs []message) {
	for i := range c.rules {
		r := &c.rules[i]
		m := message{kind: unix.NFT_MSG_NEWRULE, family: f.nf, flags: unix.NLM_F_CREATE | unix.NLM_F_APPEND, what: fmt.Sprintf("add rule %d of chain %s %s", i+1, f.name, c.name)}
		m.body.string(unix.NFTA_RULE_TABLE, Table)
		m.body.string(unix.NFTA_RULE_CHAIN, c.name)
		m.body = append(m.body, r.definition()...)
		msgs = append(msgs, m)
	}
	return msgs
}

// definition is what makes two rules equal.
func (r *ruleSpec) definition() (a attrs) {
	exprs := r.encode()
	a.nest(unix.NFTA_RULE_EXPRESSIONS, func(a *attrs) { *a = append(*a, exprs...) })
	if r.comment != "" {
		const comment = 0 // NFTNL_UDATA_RULE_COMMENT
		a.bytes(unix.NFTA_RULE_USERDATA, userTLV(nil, comment, append([]byte(r.comment), 0)))
	}
	return a
}

// flushMessage deletes all rules of a chain.
func (f *family) flushMessage(chain string) message {
	m := message{kind: unix.NFT_MSG_DELRULE, family: f.nf, what: fmt.Sprintf("flush chain %s %s", f.name, chain)}
	m.body.string(unix.NFTA_RULE_TABLE, Table)
	m.body.string(unix.NFTA_RULE_CHAIN, chain)
	return m
}

func (f *family) deleteChainMessage(chain string) message {
	m := message{kind: unix.NFT_MSG_DELCHAIN, family: f.nf, what: fmt.Sprintf("delete chain %s %s", f.name, chain)}
	m.body.string(unix.NFTA_CHAIN_TABLE, Table)
	m.body.string(unix.NFTA_CHAIN_NAME, chain)
	return m
}

func (f *family) deleteSetMessage(set string) message {
	m := message{kind: unix.NFT_MSG_DELSET, family: f.nf, what: fmt.Sprintf("delete set %s %s", f.name, set)}
	m.body.string(unix.NFTA_SET_TABLE, Table)
	m.body.string(unix.NFTA_SET_NAME, set)
	return m
}
