package iptables

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// reading is what iptables-save says of ours in one family.
type reading struct {
	held    map[chain]uint64   // our chains, by digest
	jumps   [][]string         // the rules of each chain in hooks that are ours, and what is first
	foreign []string           // chains with our prefix that we never made
	used    map[chain]bool     // our chains that rules of others lead to
	rules   map[chain][]string // of our chains; nil: nobody asks for them
}

func newReading() *reading {
	return &reading{held: map[chain]uint64{}, used: map[chain]bool{}, jumps: make([][]string, len(hooks))}
}

var errGarbled = errors.New("iptables-save printed what can't be read")

// parse adds one table's part.
func (r *reading) parse(t table, text []byte) error {
	rules := map[string][]string{}
	base := map[string][]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, ":"+prefix):
			name, _, _ := strings.Cut(line[1:], " ")
			if !ours(name) {
				r.foreign = append(r.foreign, tableNames[t]+" "+name)
			} else if _, ok := rules[name]; !ok {
				rules[name] = nil
			}
		case strings.HasPrefix(line, "-A "):
			name, rule, ok := strings.Cut(line[3:], " ")
			if !ok {
				return fmt.Errorf("%w: %q", errGarbled, line)
			}
			if ours(name) {
				rules[name] = append(rules[name], rule)
				continue
			}
			if to := jumpTo(rule); ours(to) && !slices.Contains(hooks, hook{t, name, to}) {
				r.used[chain{t, to}] = true
			}
			if len(base[name]) == 0 || strings.HasPrefix(rule, "-j "+prefix) {
				base[name] = append(base[name], rule)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", errGarbled, err)
	}
	for name, of := range rules {
		r.held[chain{t, name}] = digest(of)
		if r.rules != nil {
			r.rules[chain{t, name}] = of
		}
	}
	for i, h := range hooks {
		if h.table == t {
			r.jumps[i] = base[h.from]
		}
	}
	return nil
}

// jumpTo gives the chain that a rule leads to, behind which nothing stands.
func jumpTo(rule string) string {
	i := strings.LastIndexByte(rule, ' ')
	before, to := rule[:max(i, 0)], rule[i+1:]
	if !strings.HasSuffix(before, "-j") && !strings.HasSuffix(before, "-g") {
		return ""
	}
	return to
}

// spare has the chains stay that rules of others lead to, without rules of their own: the
// kernel takes no chain away that is led to, and refuses all that comes with it. It gives
// what is left to do, and the chains that are so spared.
func (r *reading) spare(updates []update) (rest []update, spared []string) {
	nothing := digest(nil)
	for _, u := range updates {
		if u.gone && r.used[u.chain] {
			spared = append(spared, tableNames[u.table]+" "+u.name)
			if r.held[u.chain] == nothing {
				continue
			}
			u.gone, u.digest = false, nothing
		}
		rest = append(rest, u)
	}
	return rest, spared
}

// misplaced gives the hooks whose jump isn't the first rule, or is there twice.
func (r *reading) misplaced() (out []int) {
	for i, h := range hooks {
		jump := "-j " + h.to
		if len(r.jumps[i]) == 0 || r.jumps[i][0] != jump || slices.Index(r.jumps[i][1:], jump) >= 0 {
			out = append(out, i)
		}
	}
	return out
}

// present counts our jumps of one hook.
func (r *reading) present(i int) (n int) {
	for _, rule := range r.jumps[i] {
		if rule == "-j "+hooks[i].to {
			n++
		}
	}
	return n
}

// batch is what iptables-restore is told, for each table. iptables-nft-restore walks a
// sorted list of the chains that were named so far for each line, up to the chains of that
// line. So the chains that are no sets are named first: they are few, and sort before
// all sets. Then come the sets, the last by name first, each with its rules and the rules
// that lead to it: every line finds its set at the head of those in the list. A set leads to
// longer names only, which are there already.
type batch [tables]part

type part struct {
	chains, rules, gone bytes.Buffer
	sets                []ofSet
}

// ofSet is a set with its rules, or a rule that leads to it.
type ofSet struct {
	name  string
	leads bool
	text  []byte
}

func (p *part) empty() bool { return len(p.sets) == 0 && p.chains.Len()+p.rules.Len() == 0 }

// add takes updates. The rules of a chain stay in order if those that lead to sets come
// first, sorted by bySet.
func (b *batch) add(updates []update) {
	for _, u := range updates {
		part := &b[u.table]
		if strings.HasPrefix(u.name, setPrefix) {
			text := fmt.Appendf(nil, ":%s - [0:0]\n", u.name)
			for _, r := range u.rules {
				text = appendRule(text, u.name, r)
			}
			part.sets = append(part.sets, ofSet{name: u.name, text: text})
		} else {
			fmt.Fprintf(&part.chains, ":%s - [0:0]\n", u.name)
			for _, r := range u.rules {
				line := appendRule(nil, u.name, r)
				if to := jumpTo(r); strings.HasPrefix(to, setPrefix) {
					part.sets = append(part.sets, ofSet{to, true, line})
				} else {
					part.rules.Write(line)
				}
			}
		}
		if u.gone {
			fmt.Fprintf(&part.gone, "-X %s\n", u.name)
		}
	}
}

func appendRule(to []byte, chain, rule string) []byte {
	to = append(append(append(to, "-A "...), chain...), ' ')
	return append(append(to, rule...), '\n')
}

// bySet sorts rules: those that lead to sets come first, the last set by name first.
func bySet(a, b string) int { return strings.Compare(jumpTo(b), jumpTo(a)) }

// write gives all of a table but its frame.
func (p *part) write(out *bytes.Buffer) {
	slices.SortStableFunc(p.sets, func(a, b ofSet) int {
		if c := strings.Compare(b.name, a.name); c != 0 || a.leads == b.leads {
			return c
		}
		if a.leads {
			return 1
		}
		return -1
	})
	out.Write(p.chains.Bytes())
	for i := range p.sets {
		out.Write(p.sets[i].text)
	}
	out.Write(p.rules.Bytes())
	out.Write(p.gone.Bytes())
}

// sortUpdates puts the last name first.
func sortUpdates(all []update) {
	slices.SortFunc(all, func(a, b update) int { return strings.Compare(b.name, a.name) })
}

// unhook takes our jumps of one hook away.
func (b *batch) unhook(i, present int) {
	for range present {
		fmt.Fprintf(&b[hooks[i].table].rules, "-D %s -j %s\n", hooks[i].from, hooks[i].to)
	}
}

// hook puts a jump where it belongs.
func (b *batch) hook(i int) {
	fmt.Fprintf(&b[hooks[i].table].rules, "-I %s 1 -j %s\n", hooks[i].from, hooks[i].to)
}

// commits counts the tables that change.
func (b *batch) commits() (n int) {
	for i := range b {
		if !b[i].empty() {
			n++
		}
	}
	return n
}

// text gives the whole, nat first: what it takes meets no refusal of the filter.
func (b *batch) text() []byte {
	var out bytes.Buffer
	for i := range b {
		if b[i].empty() {
			continue
		}
		fmt.Fprintf(&out, "*%s\n", tableNames[i])
		b[i].write(&out)
		out.WriteString("COMMIT\n")
	}
	return out.Bytes()
}
