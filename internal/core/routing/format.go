package routing

import (
	"fmt"
	"strings"
)

// Format prints frontends with the whole decision and its reasons, for people
// and for the tests' stories. Frontends that share their sets stand together.
func Format(frontends []Frontend) string {
	var b strings.Builder
	var last *Sets
	for i := range frontends {
		f := &frontends[i]
		if f.Sets != last {
			formatSets(&b, f)
			last = f.Sets
		}
		fmt.Fprintf(&b, "  %s %s   %s\n", f.Kind, f.where(), formatVerdicts(f.Verdicts))
		if len(f.SourceRanges) > 0 {
			fmt.Fprintf(&b, "    only from %v\n", f.SourceRanges)
		}
	}
	return b.String()
}

func (f *Frontend) where() string {
	_, where, _ := strings.Cut(f.String(), " ")
	return where
}

func formatSets(b *strings.Builder, f *Frontend) {
	fmt.Fprintf(b, "%s:%s %s", f.Service, f.PortName, f.Protocol)
	if f.Affinity > 0 {
		fmt.Fprintf(b, " affinity %s", f.Affinity)
	}
	b.WriteByte('\n')
	for _, set := range []struct {
		name     string
		backends []Backend
	}{{"cluster set", f.Cluster}, {"local set", f.Local}} {
		fmt.Fprintf(b, "  %-13s", set.name)
		if len(set.backends) == 0 {
			b.WriteString(" none")
		}
		for i := range set.backends {
			fmt.Fprintf(b, " %s", set.backends[i].AddrPort)
		}
		b.WriteByte('\n')
	}
	for i := range f.LeftOut {
		fmt.Fprintf(b, "  %-13s %s  %s\n", "left out", f.LeftOut[i].AddrPort, f.LeftOut[i].Reason)
	}
}

// formatVerdicts joins origins with the same verdict:
// "workload, node -> cluster   outside -> cluster, masquerade".
func formatVerdicts(v [Origins]Verdict) string {
	var parts []string
	done := [Origins]bool{}
	for o := range v {
		if done[o] {
			continue
		}
		var names []string
		for p := o; p < len(v); p++ {
			if v[p] == v[o] {
				names = append(names, Origin(p).String())
				done[p] = true
			}
		}
		parts = append(parts, strings.Join(names, ", ")+" -> "+v[o].String())
	}
	return strings.Join(parts, "   ")
}

// String prints "cluster, masquerade" or "drop (why)".
func (v Verdict) String() string {
	s := v.Action.String()
	if v.Masquerade {
		s += ", masquerade"
	}
	if v.Reason != 0 {
		s += " (" + v.Reason.String() + ")"
	}
	return s
}
