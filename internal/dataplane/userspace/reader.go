package userspace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/ti-mo/conntrack"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

// Reader reads the redirections that the kernel has, and changes nothing.
type Reader struct {
	conn  *nftables.Conn
	flows *conntrack.Conn
}

var _ dataplane.Inspector = (*Reader)(nil)

// OpenReader reads the network namespace of the calling thread.
func OpenReader() (*Reader, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	flows, err := conntrack.Dial(nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open conntrack: %w", err), conn.CloseLasting())
	}
	return &Reader{conn, flows}, nil
}

// Close implements dataplane.Inspector.
func (r *Reader) Close() error { return errors.Join(r.conn.CloseLasting(), r.flows.Close()) }

// Connections implements dataplane.Inspector.
func (r *Reader) Connections(_ context.Context, contents *dataplane.Contents) (map[routing.Key]int, error) {
	return tracked.Connections(r.flows, contents)
}

// Contents implements dataplane.Inspector. The kernel knows where packets are led to, and
// no backends.
func (r *Reader) Contents(context.Context) (*dataplane.Contents, error) {
	out := &dataplane.Contents{}
	for i := range 2 {
		s := newSets(i)
		if there, err := r.exists(s); err != nil || !there {
			if err != nil {
				return nil, err
			}
			continue
		}
		if err := r.add(out, s); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out.NodeAddresses, netip.Addr.Compare)
	slices.SortFunc(out.Frontends, func(a, b dataplane.Frontend) int { return dataplane.CompareKeys(a.Key, b.Key) })
	return out, nil
}

func (r *Reader) exists(s *sets) (bool, error) {
	tables, err := r.conn.ListTablesOfFamily(s.of.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == s.of.Name }), nil
}

// add reads one family's table.
func (r *Reader) add(out *dataplane.Contents, s *sets) error {
	out.Tables = append(out.Tables, s.name())
	held := plan{}
	for _, set := range s.all() {
		all, err := r.conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("read set %s of %s: %w", set.Name, s.name(), err)
		}
		held[set] = all
	}
	own, err := r.door(s)
	if err != nil {
		return err
	}
	workloads, err := r.ranges(s, "redirect-prerouting")
	if err != nil {
		return err
	}
	services, err := r.ranges(s, "refuse-inside")
	if err != nil {
		return err
	}
	out.Workloads, out.Services = append(out.Workloads, workloads...), append(out.Services, services...)
	for _, e := range held[s.nodes] {
		out.NodeAddresses = append(out.NodeAddresses, addrOf(e.Key))
	}
	out.Frontends = append(out.Frontends, s.frontends(held, own, services)...)
	return nil
}

// frontends says what the elements of the sets do with packets; own is where they are led to.
func (s *sets) frontends(held plan, own netip.Addr, services []netip.Prefix) (out []dataplane.Frontend) {
	ips := map[netip.Addr]bool{}
	for _, e := range held[s.ips] {
		ips[addrOf(e.Key)] = true
	}
	found := map[routing.Key]*dataplane.Frontend{}
	of := func(key []byte) *dataplane.Frontend {
		k := keyOf(key)
		if found[k] == nil {
			found[k] = &dataplane.Frontend{Key: k, Kind: kindOf(k, ips, services), Inside: dataplane.Way{Lost: true}, Outside: dataplane.Way{Lost: true}}
		}
		return found[k]
	}
	ways := func(one side, way func(*dataplane.Frontend) *dataplane.Way) {
		for _, e := range held[one.redirect] {
			*way(of(e.Key)) = dataplane.Way{Proxy: netip.AddrPortFrom(own, binary.BigEndian.Uint16(e.Val))}
		}
		for _, e := range held[one.refused] {
			*way(of(e.Key)) = dataplane.Way{Action: routing.Reject}
		}
		for _, e := range held[one.dropped] {
			*way(of(e.Key)) = dataplane.Way{Action: routing.Drop}
		}
	}
	ways(s.inside, func(f *dataplane.Frontend) *dataplane.Way { return &f.Inside })
	ways(s.outside, func(f *dataplane.Frontend) *dataplane.Way { return &f.Outside })
	for _, e := range held[s.guarded] {
		of(e.Key).Guarded = true
	}
	for _, e := range held[s.admitted] {
		n := int(s.addrLen())
		f := of(e.Key[n:])
		f.Admitted = append(f.Admitted, prefixOf(addrOf(e.Key[:n]), addrOf(e.KeyEnd[:n])))
	}
	for _, f := range found {
		slices.SortFunc(f.Admitted, netip.Prefix.Compare)
		out = append(out, *f)
	}
	return out
}

// kindOf tells what a key is, as far as the tables know.
func kindOf(k routing.Key, ips map[netip.Addr]bool, services []netip.Prefix) routing.Kind {
	switch {
	case k.AnyNode():
		return routing.NodePort
	case !ips[k.Addr]:
		return routing.ExternalIP
	case slices.ContainsFunc(services, func(p netip.Prefix) bool { return p.Contains(k.Addr) }):
		return routing.ClusterIP
	}
	return routing.LoadBalancerIP
}

func (r *Reader) rules(s *sets, chain string) ([]*nftables.Rule, error) {
	rules, err := r.conn.GetRules(s.of, &nftables.Chain{Name: chain, Table: s.of})
	if err != nil {
		return nil, fmt.Errorf("read chain %s of %s: %w", chain, s.name(), err)
	}
	return rules, nil
}

// door gives the address that packets are led to.
func (r *Reader) door(s *sets) (own netip.Addr, err error) {
	rules, err := r.rules(s, "redirect-inside")
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if i, ok := e.(*expr.Immediate); ok && len(i.Data) == int(s.addrLen()) {
				if a := addrOf(i.Data); !a.IsUnspecified() {
					own = a
				}
			}
		}
	}
	return own, err
}

// ranges gives the prefixes that the rules of a chain compare addresses with.
func (r *Reader) ranges(s *sets, chain string) (out []netip.Prefix, err error) {
	rules, err := r.rules(s, chain)
	for _, rule := range rules {
		var mask []byte
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Payload:
				mask = []byte{} // an address comes
			case *expr.Bitwise:
				if mask != nil {
					mask = e.Mask
				}
			case *expr.Cmp:
				if len(mask) == int(s.addrLen()) && len(e.Data) == len(mask) {
					ones := 0
					for _, b := range mask {
						ones += bits.OnesCount8(b)
					}
					out = append(out, netip.PrefixFrom(addrOf(e.Data), ones))
				}
			}
		}
	}
	return out, err
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// keyOf reads what elementKey wrote.
func keyOf(b []byte) routing.Key {
	n := len(b) - 8
	return routing.Key{Addr: addrOf(b[:n]), Protocol: catalog.Protocol(b[n]), Port: binary.BigEndian.Uint16(b[n+4:])}
}

// prefixOf gives the prefix of which these are the lowest and the highest address.
func prefixOf(low, high netip.Addr) netip.Prefix {
	a, b := low.AsSlice(), high.AsSlice()
	same := 0
	for i := range a {
		n := bits.LeadingZeros8(a[i] ^ b[i])
		if same += n; n < 8 {
			break
		}
	}
	return netip.PrefixFrom(low, same)
}

// Verify implements dataplane.Inspector. Which port of ours takes a frontend is this
// process's affair: it must be one where something listens.
func (r *Reader) Verify(ctx context.Context, site dataplane.Site, state dataplane.State) ([]string, error) {
	have, err := r.Contents(ctx)
	if err != nil {
		return nil, err
	}
	listening, err := listeners("/proc/thread-self/net")
	if err != nil {
		return nil, err
	}
	var words []string
	for i := range 2 {
		if name := newSets(i).name(); !slices.Contains(have.Tables, name) {
			words = append(words, "the table "+name+" is missing")
		}
	}
	words = append(words, differences("node addresses", spelled(have.NodeAddresses), spelled(state.NodeAddresses))...)
	words = append(words, differences("ranges of cluster IPs", spelled(have.Services), spelled(state.ServiceRanges))...)
	words = append(words, differences("ranges of workloads", spelled(have.Workloads), spelled(site.Workloads))...)
	words = append(words, differing(have.Frontends, site, state, listening)...)
	slices.Sort(words)
	return words, nil
}

// differing says what the frontends lack that a state wants, and have that it doesn't.
func differing(have []dataplane.Frontend, site dataplane.Site, state dataplane.State, listening map[socket]bool) (words []string) {
	own := [2]netip.Addr{}
	for _, a := range site.Own {
		own[family(a)] = a
	}
	nodes := map[netip.Addr]bool{}
	for _, a := range state.NodeAddresses {
		nodes[a] = true
	}
	found := map[routing.Key]*dataplane.Frontend{}
	for i := range have {
		found[have[i].Key] = &have[i]
	}
	for _, f := range state.Frontends {
		is := found[f.Key]
		delete(found, f.Key)
		if is == nil {
			words = append(words, fmt.Sprintf("%s of %s: missing", f.Key, f.Service))
			continue
		}
		side := func(name string, way dataplane.Way, verdict routing.Verdict) {
			if is, want := described(f.Key, way, listening), wanted(f, verdict, own); is != want {
				words = append(words, fmt.Sprintf("%s of %s, clients %s: %s; wanted: %s", f.Key, f.Service, name, is, want))
			}
		}
		side("inside", is.Inside, f.Verdicts[routing.Workload])
		side("outside", is.Outside, f.Verdicts[routing.Outside])
		words = append(words, differences(fmt.Sprintf("%s of %s, who may use it", f.Key, f.Service), spelled(is.Admitted), spelled(sourcesOf(f, nodes)))...)
	}
	for key := range found {
		words = append(words, fmt.Sprintf("%s: superfluous", key))
	}
	return words
}

func spelled[T fmt.Stringer](all []T) map[string]bool {
	out := map[string]bool{}
	for _, one := range all {
		out[one.String()] = true
	}
	return out
}

const toProxy = "the proxy's"

func described(key routing.Key, w dataplane.Way, listening map[socket]bool) string {
	switch {
	case w.Lost:
		return "in no set"
	case !w.Proxy.IsValid():
		return w.Action.String()
	case !listening[socket{key.Protocol, w.Proxy}]:
		return fmt.Sprintf("led to %s, where nobody listens", w.Proxy)
	}
	return toProxy
}

func wanted(f *routing.Frontend, v routing.Verdict, own [2]netip.Addr) string {
	carried := f.Protocol == protocolTCP || f.Protocol == protocolUDP
	switch {
	case v.Serves() && carried && own[family(f.Addr)].IsValid():
		return toProxy
	case v.Action == routing.Drop:
		return routing.Drop.String()
	}
	return routing.Reject.String()
}

// listeners gives where processes of a network namespace listen, by its folder net of
// /proc.
func listeners(folder string) (map[socket]bool, error) {
	all, err := readSockets(folder)
	if err != nil {
		return nil, err
	}
	out := map[socket]bool{}
	for s := range maps.Values(all) {
		if s.listens {
			out[s.socket] = true
		}
	}
	return out, nil
}
