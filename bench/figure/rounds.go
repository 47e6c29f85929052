package figure

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Name is a name for a figure: words joined by underlines.
func Name(words ...any) string {
	text := make([]string, len(words))
	for i, w := range words {
		text[i] = fmt.Sprint(w)
	}
	return strings.Join(text, "_")
}

// Rounds are all measurements of one server, by name, round by round.
type Rounds map[string][]float64

// Add notes one more measurement, of a name of these words.
func (r Rounds) Add(value float64, name ...any) {
	key := Name(name...)
	r[key] = append(r[key], value)
}

// Medians gives the median of each figure, and puts it into values and how far the rounds
// are apart into spread, both with the prefix before the name.
func (r Rounds) Medians(prefix string, values map[string]any, spread map[string][2]float64) map[string]float64 {
	out := map[string]float64{}
	for name, all := range r {
		out[name] = Median(all)
		values[prefix+name], spread[prefix+name] = Round(out[name]), Spread(all)
	}
	return out
}

// Goal is what a figure should be.
type Goal struct {
	Name  string
	Value float64
	Limit float64
	More  bool // at least the limit; else less than it
}

// Met says whether the figure is so.
func (g Goal) Met() bool {
	if g.More {
		return g.Value >= g.Limit
	}
	return g.Value < g.Limit
}

// PrintGoals prints a line for each goal, with the peer's figure of the same name.
func PrintGoals(to io.Writer, goals []Goal, peer map[string]float64) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "figure\tPortico\tpeer\tgoal\t\t")
	for _, g := range goals {
		sign, verdict, other := "<", "missed", "-"
		if g.More {
			sign = ">="
		}
		if g.Met() {
			verdict = "met"
		}
		if v, ok := peer[g.Name]; ok {
			other = fmt.Sprintf("%.3f", v)
		}
		fmt.Fprintf(w, "%s\t%.3f\t%s\t%s %g\t%s\t\n", g.Name, g.Value, other, sign, g.Limit, verdict)
	}
	return w.Flush()
}
