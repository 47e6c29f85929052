package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// shownInLine is how many backends of a set the table names; -o json has all.
const shownInLine = 4

// print writes the table for people.
func (t *shownTable) print(out io.Writer, connections bool) error {
	if len(t.Tables) == 0 {
		_, err := fmt.Fprintln(out, "The kernel has nothing of Portico's data planes in this network namespace.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	head := []string{"SERVICE", "KIND", "FRONTEND", "INSIDE", "OUTSIDE", "BACKENDS", "BESIDES"}
	if connections {
		head = slices.Insert(head, 5, "CONNECTIONS")
	}
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for i := range t.Frontends {
		f := &t.Frontends[i]
		row := []string{f.name(), f.Kind, f.where, f.Inside.words(len(f.Cluster), len(f.Local)), f.Outside.words(len(f.Cluster), len(f.Local)), f.backends(), f.besides()}
		if connections {
			row = slices.Insert(row, 5, strconv.Itoa(*f.Connections))
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "Tables\t%s\n", strings.Join(t.Tables, ", "))
	fmt.Fprintf(w, "Node ports\tat %s\n", join(t.NodeAddresses))
	fmt.Fprintf(w, "Ranges\tcluster IPs %s; workloads %s\n", join(t.Services), join(t.Workloads))
	fmt.Fprintf(w, "Refused packets\t%s\n", t.refusals())
	if t.Unnamed != "" {
		fmt.Fprintf(w, "Names\tnone: %s\n", t.Unnamed)
	}
	return w.Flush()
}

func join[T fmt.Stringer](all []T) string {
	words := make([]string, len(all))
	for i, one := range all {
		words[i] = one.String()
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, " ")
}

func (t *shownTable) refusals() string {
	var words []string
	for _, why := range slices.Sorted(maps.Keys(t.Refused)) {
		words = append(words, fmt.Sprintf("%s %d", why, t.Refused[why]))
	}
	if t.Refused == nil {
		return "aren't counted by this data plane"
	}
	return strings.Join(words, ", ")
}

func (f *shownFrontend) name() string {
	switch {
	case f.Service == "":
		return "-"
	case f.PortName == "":
		return f.Service
	}
	return f.Service + ":" + f.PortName
}

// words prints "cluster 3", or what is wrong.
func (w shownWay) words(cluster, local int) string {
	have := map[string]int{"cluster": cluster, "local": local}
	n, draws := have[w.Action]
	switch {
	case w.Proxy != nil:
		return "proxy at " + w.Proxy.String()
	case !draws:
		return w.Action
	case n != w.Backends:
		return fmt.Sprintf("%s %d, of which %d ARE THERE", w.Action, w.Backends, n)
	}
	return fmt.Sprintf("%s %d", w.Action, w.Backends)
}

// backends names those of the cluster set, and those of the local set that are in that
// alone.
func (f *shownFrontend) backends() string {
	all := slices.Clone(f.Cluster)
	for _, b := range f.Local {
		if !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b shownBackend) int { return a.Address.Compare(b.Address) })
	var words []string
	for _, b := range all[:min(len(all), shownInLine)] {
		mark := ""
		if b.Remote {
			mark = "*"
		}
		words = append(words, b.Address.String()+mark)
	}
	if rest := len(all) - len(words); rest > 0 {
		words = append(words, fmt.Sprintf("+%d", rest))
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, " ")
}

func (f *shownFrontend) besides() string {
	var words []string
	if f.Affinity > 0 {
		words = append(words, "affinity "+(time.Duration(f.Affinity)*time.Second).String())
	}
	if f.Guarded {
		words = append(words, "only from "+join(f.SourceRanges))
	}
	return strings.Join(words, ", ")
}
