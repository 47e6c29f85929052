package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/dynamic"

	"portico.dev/portico/internal/announce/bgp"
)

// bgpSocket is below the data directory; `portico announce --bgp` asks there.
const bgpSocket = "node/bgp.sock"

// startBGP starts the sessions with routers and what tells of them. The sessions' routers
// come with the load balancers' configuration: without a BGPPeer it does nothing.
func (n *nodeRun) startBGP(objects dynamic.Interface) {
	log := n.log.With("part", "bgp")
	status := bgp.NewStatus(n.o.nodeName, objects, log)
	n.bgp = bgp.New(bgp.Options{Log: log, Password: bgp.Passwords(n.kube), Changed: status.Changed})
	n.start("BGP", n.bgp.Run)
	n.start("BGP statuses", func(ctx context.Context) error { return status.Run(ctx, n.bgp.Plan) })
	n.start("answers to portico announce --bgp", n.serveBGP)
}

// serveBGP tells each who connects to the socket how the sessions are.
func (n *nodeRun) serveBGP(ctx context.Context) error {
	l, err := listenPrivately(filepath.Join(n.o.dataDir, bgpSocket))
	if err != nil {
		n.log.Warn("`portico announce --bgp` won't find this agent", "error", err)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // the kernel removes it
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // ctx ended
		}
		c.SetDeadline(time.Now().Add(statusTimeout)) //nolint:errcheck // a socket of ours
		_ = json.NewEncoder(c).Encode(n.bgp.State()) // who went away has no need of it
		c.Close()                                    //nolint:errcheck // likewise
	}
}

// sessions prints what the routers of this node were told.
func (r *announceRun) sessions(out io.Writer) error {
	dir, err := filepath.Abs(r.dataDir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	c, err := net.DialTimeout("unix", filepath.Join(dir, bgpSocket), statusTimeout)
	if err != nil {
		return fmt.Errorf("no agent that speaks BGP can be asked on --data-dir %s: %w; run it as root where `portico up` or `portico agent` runs", dir, cause(err))
	}
	defer c.Close() //nolint:errcheck // nothing was written
	if err := c.SetReadDeadline(time.Now().Add(statusTimeout)); err != nil {
		return err
	}
	var state bgp.State
	if err := json.NewDecoder(c).Decode(&state); err != nil {
		return fmt.Errorf("read what the agent says: %w", err)
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
	if len(state.Problems) > 0 {
		fmt.Fprintln(w)
	}
	for _, p := range state.Problems {
		fmt.Fprintln(w, p)
	}
	return w.Flush()
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
