package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes the status for people, one line of a table for each part.
func (r *statusRun) print(out io.Writer) error {
	s := &r.status
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	if s.Process > 0 {
		row("Data", "%s, in use by process %d", s.DataDir, s.Process)
	} else {
		row("Data", "%s, not in use", s.DataDir)
	}
	switch {
	case s.API.Ready:
		row("API", "%s, ready, %s", s.API.URL, s.API.Version)
	case s.API.URL != "":
		row("API", "%s, NOT READY", s.API.URL)
	default:
		row("API", "none known")
	}
	for _, n := range s.Nodes {
		row("Node", "%s", n.line(n.Name == s.Node && s.Node != ""))
	}
	for _, p := range s.Peers {
		row("Peer", "%s", p.line(time.Now()))
		for _, way := range p.Ways {
			row("", "%s", way.line())
		}
	}
	row("Data plane", "%s", s.DataPlane.line())
	if s.DataPlane.Path != "" {
		row("Path", "%s", s.DataPlane.way())
	}
	row("Guests", "%s", s.Guests.line(s.API.Ready))
	if s.API.Ready {
		row("Services", "%d", s.Services)
	}
	if len(s.Problems) == 0 {
		row("Problems", "none")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.Problems) > 0 {
		if _, err := fmt.Fprintln(out, "Problems"); err != nil {
			return err
		}
	}
	for _, p := range s.Problems {
		if _, err := fmt.Fprintf(out, "  - %s\n", p); err != nil {
			return err
		}
	}
	return nil
}

func (n nodeStatus) line(own bool) string {
	parts := []string{n.Name}
	if own {
		parts[0] += " (this host)"
	}
	if n.Ready {
		parts = append(parts, "Ready")
	} else {
		parts = append(parts, "NOT READY")
	}
	if len(n.Addresses) > 0 {
		parts = append(parts, "addresses "+strings.Join(n.Addresses, " "))
	}
	if len(n.PodCIDRs) > 0 {
		parts = append(parts, "pods "+strings.Join(n.PodCIDRs, " "))
	}
	return strings.Join(parts, ", ")
}

// works tells whether packets are handled by rules of ours.
func (d dataPlaneStatus) works() bool { return d.Kind != "none" && d.Kind != "unknown" }

func (d dataPlaneStatus) line() string {
	line := d.Kind
	if d.works() && !d.Present {
		line += ", not present in this network namespace"
	}
	if len(d.Tables) > 0 {
		line += "; tables here: " + strings.Join(d.Tables, ", ")
	}
	return line
}

// way says which path packets take, and why.
func (d dataPlaneStatus) way() string {
	through := "through this host's Portico process"
	if d.Path == pathStack {
		through = "through the kernel's network stack"
	}
	return through + ": " + d.Because
}

// line leaves out the counts where the API couldn't be asked.
func (g guestsStatus) line(counted bool) string {
	var parts []string
	if counted {
		count := fmt.Sprintf("%d of %d machines", total(g.Phases), g.Machines)
		if g.OnlyHere {
			count = fmt.Sprintf("%d on this node", total(g.Phases))
		}
		for _, phase := range slices.Sorted(maps.Keys(g.Phases)) {
			count += fmt.Sprintf(", %d %s", g.Phases[phase], phase)
		}
		parts = append(parts, count)
	}
	switch {
	case g.Accelerator == "off":
		parts = append(parts, "this host runs none")
	case g.Because != "":
		parts = append(parts, strings.TrimSuffix(g.Because, "."))
	}
	return strings.Join(parts, "; ")
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}
