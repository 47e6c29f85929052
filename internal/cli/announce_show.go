package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/core/election"
)

func newAnnounce() *cobra.Command {
	r := &announceRun{}
	cmd := &cobra.Command{
		Use:   "announce",
		Short: "Say which node answers for which load-balancer address, and why",
		Long: `Print each load-balancer address that is announced by ARP and NDP: the node that
answers for it, since when and why, how long the last take-over took, and the other
nodes that could. It asks the agent of this host, which knows what all of them hold; any
node's agent tells the same.

What of the MetalLB objects can't be done on this node stands below.

With --simulate-loss it says which addresses would go where if a node were lost now;
nothing happens to any.`,
		Example: `  portico announce
  portico announce --address 192.0.2.200           # with the nodes that are left out, and why
  portico announce --simulate-loss node-a
  portico announce --bgp                           # sessions with routers, and what they were told
  portico announce -o json | jq '.addresses[] | select(.holder == "node-a")'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.StringVar(&r.dataDir, "data-dir", defaultDataDir, "`folder` of the agent's run, as given to portico up or agent")
	f.StringVarP(&r.output, "output", "o", "table", "`format`: table or json")
	f.StringVar(&r.address, "address", "", "only this `address`, with all that is known of it")
	f.BoolVar(&r.bgp, "bgp", false, "say what this node tells its BGP routers instead")
	f.StringVar(&r.lost, "simulate-loss", "", "say what would become of the addresses of this `node`")
	return cmd
}

// announceRun is one run of the command.
type announceRun struct {
	dataDir, output, address, lost string
	bgp                            bool
}

func (r *announceRun) run(out io.Writer) error {
	if r.output != "table" && r.output != "json" {
		return fmt.Errorf("--output %q is unknown; choose one of table, json", r.output)
	}
	if r.bgp {
		return r.sessions(out)
	}
	report := &layer2Answer{}
	if err := askAgent(r.dataDir, askLayer2, report); err != nil {
		return err
	}
	if r.address != "" {
		a, err := netip.ParseAddr(r.address)
		if err != nil {
			return fmt.Errorf("--address: %q is not an IP address", r.address)
		}
		report.Addresses = slices.DeleteFunc(report.Addresses, func(x l2.ReportAddress) bool { return x.Address != a.Unmap() })
		if len(report.Addresses) == 0 {
			return fmt.Errorf("no Service with the address %s is announced by ARP or NDP; `portico kubectl get l2advertisements,services -A` shows what is asked for", a)
		}
	}
	switch {
	case r.lost != "":
		return r.simulate(out, report)
	case r.output == "json":
		return printJSON(out, report)
	case r.address != "":
		return printAddress(out, report)
	}
	return printAddresses(out, report)
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printAddresses(out io.Writer, report *layer2Answer) error {
	if len(report.Addresses) == 0 {
		fmt.Fprintln(out, "No address is announced by ARP or NDP: that takes an L2Advertisement, and a Service of type LoadBalancer with an address of a pool.")
		return printProblems(out, report.Problems)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tSERVICE\tHOLDER\tSINCE\tTOOK\tMOVES\tALSO\tWHY")
	for _, a := range report.Addresses {
		since, took := "-", "-"
		if a.Since != nil {
			since = time.Since(*a.Since).Truncate(time.Second).String()
			if a.Took > 0 {
				took = (time.Duration(a.Took) * time.Millisecond).String()
			}
		}
		others := slices.DeleteFunc(slices.Concat(a.Candidates, a.Reserve), func(n string) bool { return n == a.Holder })
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", a.Address, strings.Join(a.Services, ","), dash(a.Holder), since, took, a.Moves, dash(strings.Join(others, ",")), a.Why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := printSilent(out, report); err != nil {
		return err
	}
	return printProblems(out, report.Problems)
}

// printProblems says what of the configuration this node can't do.
func printProblems(out io.Writer, problems []string) error {
	if len(problems) > 0 {
		fmt.Fprintln(out)
	}
	for _, p := range problems {
		if _, err := fmt.Fprintln(out, p); err != nil {
			return err
		}
	}
	return nil
}

// printSilent names the nodes that no greeting comes from.
func printSilent(out io.Writer, report *layer2Answer) error {
	if !report.Joined {
		fmt.Fprintln(out, "\nThis agent hasn't heard its peers yet; it neither answers nor takes addresses until then.")
	}
	for _, p := range report.Peers {
		if p.Alive {
			continue
		}
		since := "was never heard"
		if p.SilentFor >= 0 {
			since = "is silent for " + (time.Duration(p.SilentFor) * time.Millisecond).Truncate(time.Second).String()
		}
		if _, err := fmt.Fprintf(out, "\nNode %s %s.\n", p.Name, since); err != nil {
			return err
		}
	}
	return nil
}

func dash(s string) string { return cmp.Or(s, "-") }

func printAddress(out io.Writer, report *layer2Answer) error {
	if err := printAddresses(out, report); err != nil {
		return err
	}
	a := report.Addresses[0]
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nNODE\tMAY HOLD IT")
	for _, n := range election.Rank(a.Address, a.Candidates) {
		fmt.Fprintf(w, "%s\tyes\n", n)
	}
	for _, n := range a.Reserve {
		fmt.Fprintf(w, "%s\twhere no other can: it is draining\n", n)
	}
	for _, n := range slices.Sorted(maps.Keys(a.LeftOut)) {
		fmt.Fprintf(w, "%s\tno: %s\n", n, a.LeftOut[n])
	}
	return w.Flush()
}

// move is one address in what --simulate-loss prints.
type move struct {
	Address  netip.Addr `json:"address"`
	Services []string   `json:"services"`
	To       string     `json:"to,omitempty"` // empty: nobody could
}

// simulate decides as the other nodes would.
func (r *announceRun) simulate(out io.Writer, report *layer2Answer) error {
	if r.lost != report.Node && !slices.ContainsFunc(report.Peers, func(p l2.ReportPeer) bool { return p.Name == r.lost }) {
		return fmt.Errorf("--simulate-loss %q is no node that announces addresses; `portico kubectl get nodes` lists the nodes", r.lost)
	}
	isLost := func(n string) bool { return n == r.lost }
	moves := []move{}
	for _, a := range report.Addresses {
		if a.Holder != r.lost {
			continue
		}
		d := election.Decide(election.Ballot{
			Address: a.Address, Candidates: slices.DeleteFunc(a.Candidates, isLost), Reserve: slices.DeleteFunc(a.Reserve, isLost),
			Claims: slices.DeleteFunc(a.Claims, func(c election.Claim) bool { return isLost(c.Node) }),
		})
		moves = append(moves, move{a.Address, a.Services, d.Holder})
	}
	if r.output == "json" {
		return printJSON(out, moves)
	}
	if len(moves) == 0 {
		_, err := fmt.Fprintf(out, "Node %s holds no address; its loss would move none.\n", r.lost)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tSERVICE\tWOULD GO TO")
	for _, m := range moves {
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.Address, strings.Join(m.Services, ","), cmp.Or(m.To, "nobody: no other node may hold it"))
	}
	return w.Flush()
}
