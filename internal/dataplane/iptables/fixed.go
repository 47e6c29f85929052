package iptables

import (
	"fmt"
	"slices"
	"strings"
)

// hook is one jump of ours from a chain of the kernel's.
type hook struct {
	table table
	from  string
	to    string
}

var hooks = []hook{
	{nat, "PREROUTING", preChain},
	{nat, "OUTPUT", natOutChain},
	{nat, "POSTROUTING", postChain},
	{filter, "INPUT", inChain},
	{filter, "FORWARD", forwardName},
	{filter, "OUTPUT", outChain},
}

// fix plans the chains that don't depend on frontends.
func (f *family) fix() {
	for name, rules := range f.fixedNAT() {
		f.dirty[chain{nat, name}] = func() ([]string, bool) { return rules, true }
	}
	for name, rules := range f.fixedFilter() {
		f.dirty[chain{filter, name}] = func() ([]string, bool) { return rules, true }
	}
}

// atNodes gives a rule for each of the node's addresses.
func (f *family) atNodes(to string) (rules []string) {
	for _, a := range f.nodes {
		rules = append(rules, "-d "+whole(a)+" -j "+to)
	}
	return rules
}

func (f *family) fromWorkloads(before, after string) (rules []string) {
	for _, p := range f.workloads {
		rules = append(rules, "-s "+p.String()+before+" -j "+after)
	}
	return rules
}

func (f *family) fixedNAT() map[string][]string {
	inside := append([]string{"-j " + servicesTree}, f.atNodes(nodeTree)...)
	var pre []string
	for _, p := range f.workloads {
		pre = append(pre, "-s "+p.String()+" -g "+natOutChain)
	}
	pre = append(pre, "-j "+outsideTree)
	pre = append(pre, f.atNodes(outNodeTree)...)
	pre = append(pre, "-j "+natOutChain)
	masq := append([]string{f.mark.clear()}, f.fromWorkloads("", "RETURN")...)
	chains := map[string][]string{
		natOutChain: inside,
		preChain:    pre,
		// First: a backend outside the cluster that reaches itself by this node has no
		// route to the address that hairpins of workloads get.
		postChain: {f.mark.match() + " -j " + masqChain, f.hairpinRule()},
		masqChain: append(masq, "-j MASQUERADE --random-fully"),
	}
	f.localNAT(chains)
	return chains
}

// hairpinRule changes the source of a backend that reaches itself: its source equals its
// destination, which only a program for the packet filter can tell (xt_bpf).
func (f *family) hairpinRule() string {
	to := "MASQUERADE --random-fully"
	if f.hairpin.IsValid() {
		to = "SNAT --to-source " + f.hairpin.String()
	}
	return "! -o lo -m conntrack --ctstate DNAT -m bpf --bytecode \"" + sameEnds(f.v6) + "\" -j " + to
}

// sameEnds is classic BPF, from the network header on: 1 when source and destination are equal.
func sameEnds(v6 bool) string {
	from, words := 12, 1
	if v6 {
		from, words = 8, 4
	}
	var code []string
	for i := range words {
		rest := 4*(words-1-i) + 1 // instructions to leap over, to the one that says no
		code = append(
			code,
			fmt.Sprintf("32 0 0 %d", from+4*i), // A = word of the source
			"7 0 0 0",                          // X = A
			fmt.Sprintf("32 0 0 %d", from+4*(words+i)), // A = word of the destination
			fmt.Sprintf("29 0 %d 0", rest),             // A == X, or the leap
		)
	}
	code = append(code, "6 0 0 1", "6 0 0 0")
	return fmt.Sprintf("%d,%s", len(code), strings.Join(code, ","))
}

func (f *family) fixedFilter() map[string][]string {
	const established = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
	// An answer of a backend that conntrack finds invalid (out of the window, say) keeps
	// the backend's address; a client that saw it would reset a healthy connection
	// (kubernetes/kubernetes#74839).
	invalid := f.fromWorkloads(" -p tcp -m conntrack --ctstate INVALID", "DROP")
	check := []string{established}
	for _, p := range f.services {
		check = append(check, "-d "+p.String()+" -m conntrack --ctstate INVALID -j DROP")
	}
	check = append(check, "-m conntrack --ctstate DNAT -j RETURN", "-m conntrack --ctstate NEW -j "+newChain)

	first := append([]string{"-j " + closedTree}, f.atNodes(closedNode)...)
	for _, p := range f.services {
		first = append(first, "-d "+p.String()+" -j DROP")
	}
	// A frontend is nobody's client: two of them would answer each other for ever.
	var circling []string
	for _, p := range f.services {
		circling = append(circling, "-s "+p.String()+" -p udp -m conntrack --ctstate NEW -j DROP")
	}
	circling = append(circling, "-p udp -m conntrack --ctstate NEW -j "+sourceTree)
	begin := slices.Concat([]string{established}, invalid, circling, []string{"-j " + checkChain})
	// What no frontend took would circle between this node and the one that sent it, till
	// its TTL ends. An external IP may be a machine's that workloads reach by other ports.
	forward := append(slices.Clone(begin), "-m conntrack --ctstate DNAT -j RETURN", "-j "+balancerTree)
	if f.v6 {
		// So would an error of ours about a packet with such an address as its source. IPv4
		// drops what comes in with an own address as its source by itself.
		forward = slices.Insert(forward, 0, "-m conntrack --ctstate RELATED -m addrtype --src-type LOCAL -j DROP")
	}
	forward = append(append(forward, f.fromWorkloads("", "RETURN")...), "-j "+externalTree)
	out := []string{"-j " + checkChain}
	unreachable := "icmp-port-unreachable"
	if f.v6 {
		unreachable = "icmp6-port-unreachable"
		// A hairpin packet leaves by the link it came in on, for which IPv6 sends redirects
		// (RFC 4861 section 8) and has no switch as IPv4 does.
		var redirects []string
		for _, p := range f.workloads {
			redirects = append(redirects, "-d "+p.String()+" -p ipv6-icmp -m icmp6 --icmpv6-type 137 -j DROP")
		}
		out = append(redirects, out...)
	}
	chains := map[string][]string{
		refuseChain: {"-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT --reject-with " + unreachable},
		checkChain:  check,
		newChain:    first,
		inChain:     begin,
		forwardName: forward,
		outChain:    out,
	}
	f.localFilter(chains)
	return chains
}
