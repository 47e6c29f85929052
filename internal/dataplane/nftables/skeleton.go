package nftables

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// repair gives the messages that make the fixed part of a table (sets, chains,
// rules) what it must be, and what was wrong in words. When a set of ours has
// another shape the table is made anew in the same transaction, and what it held
// is forgotten.
func (f *family) repair(t *tableReading, fixed []chainSpec) (msgs []message, words []string) {
	for i := range f.sets {
		s := &f.sets[i]
		shown, ok := t.sets[s.name]
		if ok && (!covers(shown, s.definition()) || bigU32(find(shown, unix.NFTA_SET_FLAGS)) != s.flags) {
			words = append(words, fmt.Sprintf("%s: set %s has another shape, the table is made anew", f.name, s.name))
			msgs = append(msgs, f.tableMessage(unix.NFT_MSG_DELTABLE))
			*t = tableReading{}
			break
		}
	}
	if !t.exists {
		words = append(words, f.name+": no table")
		msgs = append(msgs, f.tableMessage(unix.NFT_MSG_NEWTABLE))
	}
	for i := range f.sets {
		if s := &f.sets[i]; t.sets[s.name] == nil {
			words = append(words, fmt.Sprintf("%s: no set %s", f.name, s.name))
			msgs = append(msgs, f.setMessage(s, i+1))
		}
	}
	chains := slices.Clone(fixed)
	for _, d := range f.demanded(t) {
		chains = append(chains, f.onDemand(d))
	}
	for i := range chains {
		m, w := f.repairChain(t, &chains[i])
		msgs, words = append(msgs, m...), append(words, w...)
	}
	for _, d := range f.demanded(t) {
		if t.chains[d.chain()] == nil {
			t.chains[d.chain()] = []byte{} // made by these messages
		}
	}
	return msgs, words
}

// demanded lists the chains on demand that are there, and those they lead to
// before them.
func (f *family) demanded(t *tableReading) (out []target) {
	for name := range t.chains {
		if d, ok := drawTarget(name); ok {
			if r := d.remembering(); r.kind != nowhere && t.chains[r.chain()] == nil && !slices.Contains(out, r) {
				out = append([]target{r}, out...)
			}
			if d.kind == remember {
				out = append([]target{d}, out...)
			} else {
				out = append(out, d)
			}
		}
	}
	return out
}

func (f *family) repairChain(t *tableReading, c *chainSpec) ([]message, []string) {
	shown, ok := t.chains[c.name]
	hooked := find(shown, unix.NFTA_CHAIN_HOOK) != nil
	switch {
	case !ok:
		return f.chainMessages(c), []string{fmt.Sprintf("%s: no chain %s", f.name, c.name)}
	case hooked != (c.kind != "") || !covers(shown, c.definition()):
		msgs := []message{f.flushMessage(c.name), f.deleteChainMessage(c.name)}
		return append(msgs, f.chainMessages(c)...), []string{fmt.Sprintf("%s: chain %s has another hook", f.name, c.name)}
	case !sameRules(t.rules[c.name], c.rules):
		msgs := []message{f.flushMessage(c.name)}
		return append(msgs, f.ruleMessages(c)...), []string{fmt.Sprintf("%s: chain %s has other rules: %s", f.name, c.name, otherRules(t.rules[c.name], c.rules))}
	}
	return nil, nil
}

func sameRules(shown [][]byte, want []ruleSpec) bool {
	if len(shown) != len(want) {
		return false
	}
	for i := range want {
		if !sameRule(shown[i], &want[i]) {
			return false
		}
	}
	return true
}

func sameRule(shown []byte, want *ruleSpec) bool {
	if !covers(shown, want.definition()) {
		return false
	}
	// covers allows more than was sent: more expressions are another rule.
	exprs, err := parseAttrs(find(shown, unix.NFTA_RULE_EXPRESSIONS))
	return err == nil && len(exprs) == len(want.exprs)
}

// otherRules says in what rules differ.
func otherRules(shown [][]byte, want []ruleSpec) string {
	left := make([]*ruleSpec, len(want))
	for i := range want {
		left[i] = &want[i]
	}
	var words []string
	for i := range shown {
		at := slices.IndexFunc(left, func(r *ruleSpec) bool { return sameRule(shown[i], r) })
		if at < 0 {
			words = append(words, fmt.Sprintf("rule %d is foreign", i+1))
			continue
		}
		left = slices.Delete(left, at, at+1)
	}
	switch n := len(left); {
	case n > 0:
		words = append(words, fmt.Sprintf("%d of our %d are missing", n, len(want)))
	case len(words) == 0:
		return "their order"
	}
	return strings.Join(words, ", ")
}

// prune gives the messages that delete chains and sets which are nobody's: draw
// chains without a frontend (unless they are spared for the next one that needs
// them), and what is not ours in our table.
func (k *kernel) prune(i int, t *tableReading, fixed []chainSpec, spare bool) (msgs []message, words []string) {
	f := k.families[i]
	known := map[string]bool{}
	for j := range fixed {
		known[fixed[j].name] = true
	}
	for key, h := range k.held {
		if index(key.Addr) == i {
			for _, t := range []target{h.inside, h.outside} {
				known[t.chain()] = true
				known[t.remembering().chain()] = true
			}
		}
	}
	var flush, del []message
	for name := range t.chains {
		d, demanded := drawTarget(name)
		if !known[name] && (!demanded || !spare) {
			what := "not ours"
			if demanded {
				what = "unused"
			}
			words = append(words, fmt.Sprintf("%s: chain %s is %s", f.name, name, what))
			flush, del = append(flush, f.flushMessage(name)), append(del, f.deleteChainMessage(name))
			if demanded {
				if k.chosen[i][d] {
					k.later.del(i, choicesMap, d.choice())
				}
				delete(k.chains[i], d)
				delete(k.chosen[i], d)
			}
		}
	}
	for name, shown := range t.sets {
		const anonymous = unix.NFT_SET_ANONYMOUS // goes with the rule that uses it
		if bigU32(find(shown, unix.NFTA_SET_FLAGS))&anonymous == 0 && !slices.ContainsFunc(f.sets, func(s setSpec) bool { return s.name == name }) {
			words = append(words, fmt.Sprintf("%s: set %s is not ours", f.name, name))
			del = append(del, f.deleteSetMessage(name))
		}
	}
	return append(flush, del...), words
}
