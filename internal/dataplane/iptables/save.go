package iptables

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// reading is what iptables-save says of ours in one family.
type reading struct {
	held    map[chain]uint64 // our chains, by digest
	jumps   [][]string       // the rules of each chain in hooks that are ours, and what is first
	foreign []string         // chains with our prefix that we never made
}

func newReading() *reading {
	return &reading{held: map[chain]uint64{}, jumps: make([][]string, len(hooks))}
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
			} else if len(base[name]) == 0 || strings.HasPrefix(rule, "-j "+prefix) {
				base[name] = append(base[name], rule)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", errGarbled, err)
	}
	for name, of := range rules {
		r.held[chain{t, name}] = digest(of)
	}
	for i, h := range hooks {
		if h.table == t {
			r.jumps[i] = base[h.from]
		}
	}
	return nil
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

// batch is what iptables-restore is told, for each table.
type batch [tables]struct{ chains, rules, gone bytes.Buffer }

func (b *batch) add(updates []update) {
	for _, u := range updates {
		part := &b[u.table]
		fmt.Fprintf(&part.chains, ":%s - [0:0]\n", u.name)
		for _, r := range u.rules {
			part.rules.WriteString("-A ")
			part.rules.WriteString(u.name)
			part.rules.WriteByte(' ')
			part.rules.WriteString(r)
			part.rules.WriteByte('\n')
		}
		if u.gone {
			fmt.Fprintf(&part.gone, "-X %s\n", u.name)
		}
	}
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
		if b[i].chains.Len()+b[i].rules.Len() > 0 {
			n++
		}
	}
	return n
}

// text gives the whole, nat first: what it takes meets no refusal of the filter.
func (b *batch) text() []byte {
	var out bytes.Buffer
	for i := range b {
		p := &b[i]
		if p.chains.Len()+p.rules.Len() == 0 {
			continue
		}
		fmt.Fprintf(&out, "*%s\n", tableNames[i])
		out.Write(p.chains.Bytes())
		out.Write(p.rules.Bytes())
		out.Write(p.gone.Bytes())
		out.WriteString("COMMIT\n")
	}
	return out.Bytes()
}

// chainsEach is how many chains iptables-nft-restore is given at once where that is
// possible. It keeps them in sorted lists, so that its time grows with the square of their
// number.
const chainsEach = 2000

// portions splits the chains of sets, sorted by name, so that those of one set, which lead to
// each other, stay together.
func portions(sets []update) iter.Seq[[]update] {
	const set = len(setPrefix) + 12 // of a name: what all chains of one set begin with
	return func(yield func([]update) bool) {
		for len(sets) > 0 {
			n := min(chainsEach, len(sets))
			for n < len(sets) && sets[n].name[:set] == sets[n-1].name[:set] {
				n++
			}
			if !yield(sets[:n]) {
				return
			}
			sets = sets[n:]
		}
	}
}
