package nftables

import (
	"context"
	"fmt"
	"slices"

	"portico.dev/portico/internal/dataplane"
)

// Verify implements dataplane.Inspector. Sets for lengths of prefixes that state has no use
// for are no difference: a Backend keeps them for the next that needs them.
func (r *Reader) Verify(_ context.Context, site dataplane.Site, state dataplane.State) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lengths, err := r.conn.lengths()
	if err != nil {
		return nil, err
	}
	cfg := Config{WorkloadRanges: site.Workloads, HairpinSources: site.Own}.withDefaults()
	b := &Backend{cfg: cfg, log: cfg.Logger, conn: r.conn, families: newFamilies(limits{})}
	d, err := b.difference(state, lengths, true)
	if err != nil {
		return nil, err
	}
	return d.all(), nil
}

// all lists every difference in words, sorted.
func (d *difference) all() []string {
	words := append(slices.Clone(d.words), d.kernel.changes.differences(d.kernel.families)...)
	slices.Sort(words)
	return words
}

// differences says what the two transactions change in the end: a slot that goes is
// first filled anew, which is nothing that a person must know.
func (c *changes) differences(families [2]*family) (out []string) {
	type ref struct {
		setRef
		key string
		end bool
	}
	type values struct{ before, after *element }
	all := map[ref]*values{}
	note := func(set setRef, e *element, after *element) {
		r := ref{set, e.key, e.end}
		v := all[r]
		if v == nil {
			v = &values{}
			if after == nil { // what is deleted first was there
				v.before = e
			}
			all[r] = v
		}
		v.after = after
	}
	for _, t := range []*elements{&c.now, &c.later} {
		for set, change := range t.sets {
			for i := range change.del {
				note(set, &change.del[i], nil)
			}
			for i := range change.add {
				note(set, &change.add[i], &change.add[i])
			}
		}
	}
	for r, v := range all {
		f := families[r.family]
		text := func(e *element) string { return f.describe(f.set(r.name), *e) }
		switch {
		case v.before == nil && v.after == nil:
		case v.after == nil:
			out = append(out, fmt.Sprintf("%s %s: superfluous: %s", f.name, r.name, text(v.before)))
		case v.before == nil:
			out = append(out, fmt.Sprintf("%s %s: missing: %s", f.name, r.name, text(v.after)))
		case *v.before != *v.after:
			out = append(out, fmt.Sprintf("%s %s: different: %s; wanted: %s", f.name, r.name, text(v.before), text(v.after)))
		}
	}
	return out
}
