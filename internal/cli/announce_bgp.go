package cli

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/record"

	"portico.dev/portico/internal/announce/bgp"
	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/metallb"
)

// startBGP starts the sessions with routers and what tells of them. The sessions' routers
// come with the load balancers' configuration: without a BGPPeer it does nothing.
func (n *nodeRun) startBGP(objects dynamic.Interface, events record.EventRecorder) {
	log := n.log.With("part", "bgp")
	writer := statuses.NewWriter(n.o.nodeName, metallb.ServiceBGPStatuses, objects, log)
	n.bgp = bgp.New(bgp.Options{Log: log, Password: bgp.Passwords(n.kube), Changed: func() {
		if all, ok := n.bgp.Statuses(n.o.nodeName); ok {
			writer.Set(all)
		}
		n.faults.SetBGP(n.bgp.Faults())
	}, Event: func(e bgp.Event) { events.Event(&e.On, e.Type, e.Reason, e.Message) }})
	n.start("BGP", n.bgp.Run)
	n.start("BGP statuses", writer.Run)
}

// sessions prints what the routers of this node were told.
func (r *announceRun) sessions(out io.Writer) error {
	var state bgp.State
	if err := askAgent(r.dataDir, askBGP, &state); err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(out, state)
	}
	return printSessions(out, state)
}

func printSessions(out io.Writer, state bgp.State) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	if len(state.Peers) == 0 {
		fmt.Fprintln(w, "This node has no BGP session: that takes a BGPPeer whose nodeSelectors match it.")
	} else {
		fmt.Fprintln(w, "PEER\tADDRESS\tAS\tSTATE\tSINCE\tBFD\tFAMILIES\tANNOUNCED\tWHY")
	}
	for _, p := range state.Peers {
		as := "-"
		if p.RemoteASN != 0 {
			as = strconv.FormatUint(uint64(p.RemoteASN), 10)
		}
		why := p.Why
		if len(p.Refused) > 0 {
			why = "it doesn't take the family of " + shorten(p.Refused)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Peer, p.Address, as, p.Status,
			time.Since(p.Since).Truncate(time.Second), dash(p.BFD), dash(strings.Join(p.Families, ",")), dash(shorten(p.Announced)), why)
	}
	if len(state.Left) > 0 {
		fmt.Fprintln(w, "\nNOT ANNOUNCED\tSERVICE\tWHY")
	}
	for _, l := range state.Left {
		fmt.Fprintf(w, "%s\t%s\t%s\n", l.Address, l.Service, l.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printProblems(out, state.Problems)
}

// shorten joins some of them, and counts the others.
func shorten(all []netip.Prefix) string {
	const shown = 3
	var texts []string
	for i, p := range all {
		if i == shown {
			texts = append(texts, fmt.Sprintf("and %d more", len(all)-shown))
			break
		}
		texts = append(texts, p.String())
	}
	return strings.Join(texts, " ")
}
