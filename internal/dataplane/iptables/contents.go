package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// Contents implements dataplane.Inspector. Sets are sorted by address. Which of the two a
// set is, is told by its name, which is made of the Service's that comments tell.
func (r *Reader) Contents(ctx context.Context) (*dataplane.Contents, error) {
	programs, err := r.cfg.present(ctx)
	if err != nil {
		return nil, fmt.Errorf("read iptables: %w", err)
	}
	out := &dataplane.Contents{}
	for _, v6 := range []bool{false, true} {
		is := newReading()
		is.rules = map[chain][]string{}
		if err := programs.read(ctx, v6, is); err != nil {
			return nil, fmt.Errorf("read iptables: %w", err)
		}
		if len(is.held) == 0 {
			continue
		}
		out.Tables = append(out.Tables, programs.title(v6))
		(&shown{reading: is, v6: v6, out: out}).add()
	}
	slices.SortFunc(out.NodeAddresses, netip.Addr.Compare)
	slices.SortFunc(out.Frontends, func(a, b dataplane.Frontend) int { return dataplane.CompareKeys(a.Key, b.Key) })
	return out, nil
}

// options are a rule's, as iptables-save prints it: of one that is there twice, the last.
type options map[string]string

func parseOptions(rule string) options {
	out := options{}
	name := ""
	for rule != "" {
		var word string
		if rest, quoted := strings.CutPrefix(rule, `"`); quoted {
			word, rule, _ = strings.Cut(rest, `"`)
			out[name] = word
			rule = strings.TrimPrefix(rule, " ")
			continue
		}
		word, rule, _ = strings.Cut(rule, " ")
		if strings.HasPrefix(word, "-") {
			name = word
			out[name] = ""
		} else {
			out[name] = word
		}
	}
	return out
}

// prefix gives the addresses that an option matches, of the invalid one where it is nothing
// of ours.
func (o options) prefix(name string) netip.Prefix {
	p, err := netip.ParsePrefix(o[name])
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// shown reads one family's rules as a packet would.
type shown struct {
	*reading
	v6  bool
	out *dataplane.Contents

	clusterIPs, balancers map[netip.Addr]bool
	closed                map[routing.Key]options
}

// leaf is what the leaves of a tree say of its frontends.
func (s *shown) leaf(t table, root string) map[routing.Key]options {
	out := map[routing.Key]options{}
	for c, rules := range s.rules {
		if c.table != t || !strings.HasPrefix(c.name, root+"-") {
			continue
		}
		for _, rule := range rules {
			o := parseOptions(rule)
			if key, ok := s.key(o); ok {
				out[key] = o
			}
		}
	}
	return out
}

// key gives the frontend that a rule is for; those on the way to it are for ranges.
func (s *shown) key(o options) (key routing.Key, ok bool) {
	port, err := strconv.ParseUint(o["--dport"], 10, 16)
	if err != nil {
		return key, false
	}
	key = routing.Key{Addr: netip.IPv4Unspecified(), Port: uint16(port)}
	if s.v6 {
		key.Addr = netip.IPv6Unspecified()
	}
	if p := o.prefix("-d"); p.IsSingleIP() {
		key.Addr = p.Addr()
	}
	for _, p := range []catalog.Protocol{catalog.TCP, catalog.UDP, catalog.SCTP} {
		if o["-p"] == strings.ToLower(p.String()) {
			key.Protocol, ok = p, true
		}
	}
	return key, ok
}

// addresses gives those that the leaves of a tree have a rule for that ends in a verdict and
// matches no port.
func (s *shown) addresses(root, verdict string) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for c, rules := range s.rules {
		if c.table != filter || !strings.HasPrefix(c.name, root+"-") {
			continue
		}
		for _, rule := range rules {
			o := parseOptions(rule)
			if p := o.prefix("-d"); p.IsSingleIP() && o["-j"] == verdict && o["--dport"] == "" {
				out[p.Addr()] = true
			}
		}
	}
	return out
}

// prefixes gives what the rules of a chain match that end in a verdict.
func (s *shown) prefixes(c chain, side, verdict string) (out []netip.Prefix) {
	for _, rule := range s.rules[c] {
		if o := parseOptions(rule); o["-j"] == verdict && o.prefix(side).IsValid() {
			out = append(out, o.prefix(side))
		}
	}
	return out
}

func (s *shown) add() {
	for _, p := range s.prefixes(chain{nat, natOutChain}, "-d", nodeTree) {
		at := p.Addr()
		if at.IsLoopback() { // the whole range
			at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		s.out.NodeAddresses = append(s.out.NodeAddresses, at)
	}
	s.out.Services = append(s.out.Services, s.prefixes(chain{filter, newChain}, "-d", "DROP")...)
	s.out.Workloads = append(s.out.Workloads, s.prefixes(chain{nat, masqChain}, "-s", "RETURN")...)
	s.clusterIPs, s.balancers = s.addresses(closedTree, refuseChain), s.addresses(balancerTree, "DROP")
	for _, roots := range [][3]string{{servicesTree, outsideTree, closedTree}, {nodeTree, outNodeTree, closedNode}} {
		inside, outside := s.leaf(nat, roots[0]), s.leaf(nat, roots[1])
		s.closed = s.leaf(filter, roots[2])
		keys := map[routing.Key]bool{}
		for _, of := range []map[routing.Key]options{inside, outside, s.closed} {
			for key := range of {
				keys[key] = true
			}
		}
		for key := range keys {
			s.out.Frontends = append(s.out.Frontends, s.frontend(key, inside[key], outside[key]))
		}
	}
}

// frontend describes one; in and out are the rules that take its packets, nil for none.
func (s *shown) frontend(key routing.Key, in, out options) dataplane.Frontend {
	f := dataplane.Frontend{Key: key, Kind: routing.ExternalIP}
	switch {
	case key.AnyNode():
		f.Kind = routing.NodePort
	case s.clusterIPs[key.Addr]:
		f.Kind = routing.ClusterIP
	case s.balancers[key.Addr]:
		f.Kind = routing.LoadBalancerIP
	}
	f.Inside = s.way(&f, in)
	f.Outside = f.Inside
	if out != nil {
		f.Outside = s.way(&f, out)
	}
	return f
}

// way follows a rule, and notes in f what it leads to.
func (s *shown) way(f *dataplane.Frontend, rule options) dataplane.Way {
	to := rule["-j"]
	if strings.HasPrefix(to, guardPrefix) {
		f.Guarded = true
		var set string
		for _, r := range s.rules[chain{nat, to}] {
			if o := parseOptions(r); o.prefix("-s").IsValid() {
				set, f.Admitted = o["-j"], append(f.Admitted, o.prefix("-s"))
			}
		}
		to = set
		slices.SortFunc(f.Admitted, netip.Prefix.Compare)
		f.Admitted = slices.Compact(f.Admitted)
	}
	if !strings.HasPrefix(to, setPrefix) {
		return s.refused(f.Key)
	}
	slots := s.draws(to, false, f)
	slices.SortFunc(slots, func(a, b dataplane.Slot) int { return a.AddrPort.Compare(b.AddrPort) })
	w := dataplane.Way{Action: routing.ToCluster, Count: len(slots)}
	service, port, _ := strings.Cut(rule["--comment"], ":")
	if to == nameOfSet(service, port, f.Key, routing.ToLocal) {
		w.Action, f.Local = routing.ToLocal, slots
	} else {
		f.Cluster = slots
	}
	return w
}

// refused says what becomes of packets that nobody translates.
func (s *shown) refused(key routing.Key) dataplane.Way {
	switch s.closed[key]["-j"] {
	case "DROP":
		return dataplane.Way{Action: routing.Drop}
	case refuseChain:
		return dataplane.Way{Action: routing.Reject}
	}
	return dataplane.Way{Lost: true}
}

// draws gives the backends of a set's chain and those below it. Marked are those on other
// nodes.
func (s *shown) draws(name string, marked bool, f *dataplane.Frontend) (out []dataplane.Slot) {
	for _, rule := range s.rules[chain{nat, name}] {
		o := parseOptions(rule)
		_, remembers := o["--update"]
		switch to := o["-j"]; {
		case remembers:
			if n, err := strconv.Atoi(o["--seconds"]); err == nil {
				f.Affinity = time.Duration(n) * time.Second
			}
		case to == "MARK":
			marked = !strings.HasPrefix(o["--set-xmark"], "0x0/")
		case to == "DNAT":
			if at, err := netip.ParseAddrPort(o["--to-destination"]); err == nil {
				out = append(out, dataplane.Slot{AddrPort: at, Remote: marked, Hairpin: !marked})
			}
		case strings.HasPrefix(to, name) && len(to) > len(name): // so that this ends
			out = append(out, s.draws(to, marked, f)...)
		}
	}
	return out
}

// title names what a family has of ours.
func (p *programs) title(v6 bool) string {
	family := "iptables"
	if v6 {
		family = "ip6tables"
	}
	return fmt.Sprintf("%s chains %s* (%s)", family, prefix, p.variant)
}
