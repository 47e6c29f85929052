package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/ti-mo/conntrack"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

// Reader reads what the kernel has of ours and changes nothing.
type Reader struct {
	b     *Backend
	flows *conntrack.Conn
}

var _ dataplane.Inspector = (*Reader)(nil)

// OpenReader opens what reads the network namespace that cfg.Enter enters. Of cfg, what a
// Site says is not needed.
func OpenReader(cfg Config) (*Reader, error) {
	b, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	r := &Reader{b: b}
	err = b.cfg.Enter(func() (err error) {
		r.flows, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		b.Close() //nolint:errcheck // the first error says more
		return nil, fmt.Errorf("ipvs data plane: open conntrack: %w", err)
	}
	return r, nil
}

// Close implements dataplane.Inspector.
func (r *Reader) Close() error {
	err := r.flows.Close()
	if e := r.b.Close(); err == nil {
		err = e
	}
	return err
}

// Verify implements dataplane.Inspector.
func (r *Reader) Verify(ctx context.Context, site dataplane.Site, state dataplane.State) ([]string, error) {
	r.b.mu.Lock()
	r.b.cfg.Workloads, r.b.cfg.Addresses = site.Workloads, site.Own
	r.b.mu.Unlock()
	return r.b.Verify(ctx, state)
}

// Connections implements dataplane.Inspector. IPVS leaves no word of translation in
// conntrack but the answer's source.
func (r *Reader) Connections(_ context.Context, contents *dataplane.Contents) (map[routing.Key]int, error) {
	known := map[routing.Key]bool{}
	for i := range contents.Frontends {
		known[contents.Frontends[i].Key] = true
	}
	all, err := r.flows.Dump(nil)
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}
	out := map[routing.Key]int{}
	for i := range all {
		f := &all[i]
		key, ok := tracked.Frontend(f, func(k routing.Key) bool { return known[k] }, func(a netip.Addr) bool { return slices.Contains(contents.NodeAddresses, a) })
		if ok && (f.TupleReply.IP.SourceAddress != f.TupleOrig.IP.DestinationAddress || f.TupleReply.Proto.SourcePort != f.TupleOrig.Proto.DestinationPort) {
			out[key]++
		}
	}
	return out, nil
}

// Contents implements dataplane.Inspector. A node port is shown once for all addresses.
func (r *Reader) Contents(context.Context) (*dataplane.Contents, error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	out := &dataplane.Contents{}
	kernel, err := r.b.wire.all(func(key) bool { return true })
	if err != nil {
		return nil, err
	}
	_, routes, err := r.b.router.held()
	if err != nil {
		return nil, err
	}
	for p := range routes {
		if p.Bits() < p.Addr().BitLen() && !slices.Contains(aliases[:], p) {
			out.Services = append(out.Services, p)
		}
	}
	slices.SortFunc(out.Services, netip.Prefix.Compare)
	for _, f := range r.b.tables.families {
		if ok, err := r.b.tables.has(f); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		out.Tables = append(out.Tables, f.name())
		v := view{v6: f.v6, kernel: kernel}
		for s, set := range f.sets {
			elements, err := r.b.tables.conn.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("read set %s of %s: %w", set.Name, f.name(), err)
			}
			v.sets[s] = make(map[string][]byte, len(elements))
			for _, e := range elements {
				if set.Interval && len(e.KeyEnd) > 0 {
					e.Val = e.KeyEnd
				}
				v.sets[s][string(e.Key)] = e.Val
			}
		}
		v.describe(out)
		workloads, err := r.b.tables.workloads(f)
		if err != nil {
			return nil, err
		}
		out.Workloads = append(out.Workloads, workloads...)
	}
	slices.SortFunc(out.NodeAddresses, netip.Addr.Compare)
	out.NodeAddresses = slices.Compact(out.NodeAddresses)
	slices.SortFunc(out.Frontends, func(a, b dataplane.Frontend) int { return dataplane.CompareKeys(a.Key, b.Key) })
	out.Frontends = slices.CompactFunc(out.Frontends, func(a, b dataplane.Frontend) bool { return a.Key == b.Key })
	return out, nil
}

// view is one of our tables as it was read.
type view struct {
	v6     bool
	kernel map[key]*server
	sets   [setCount]map[string][]byte
}

func (v *view) has(s set, k string) bool {
	_, ok := v.sets[s][k]
	return ok
}

// describe adds the frontends of a table.
func (v *view) describe(out *dataplane.Contents) {
	doors := map[string]bool{}
	for _, s := range []set{virtualSet, ledInsideMap, ledOutsideMap, refusedInsideSet, refusedOutsideSet, droppedInsideSet, droppedOutsideSet} {
		for k := range v.sets[s] {
			doors[k] = true
		}
	}
	for raw := range doors {
		k, ok := parseFrontendKey([]byte(raw), v.v6)
		if !ok || aliases[index(v.v6)].Contains(k.Addr()) {
			continue
		}
		f := dataplane.Frontend{Key: routing.Key{Addr: k.Addr(), Protocol: k.protocol, Port: k.Port()}, Kind: routing.ExternalIP, Guarded: v.has(guardedSet, raw)}
		a := string(k.Addr().AsSlice())
		switch {
		case v.has(clusterIPsSet, a):
			f.Kind = routing.ClusterIP
		case !v.has(doorsSet, a):
			f.Kind, f.Key = routing.NodePort, anyNode(f.Key)
			out.NodeAddresses = append(out.NodeAddresses, k.Addr())
		case f.Guarded:
			f.Kind = routing.LoadBalancerIP
		}
		inside := v.way(&f.Inside, raw, k, refusedInsideSet, droppedInsideSet, ledInsideMap)
		outside := v.way(&f.Outside, raw, k, refusedOutsideSet, droppedOutsideSet, ledOutsideMap)
		if inside != nil {
			f.Cluster, f.Affinity = v.slots(inside), time.Duration(inside.persistent)*time.Second
		}
		if outside != nil && outside != inside {
			f.Local, f.Outside.Action = v.slots(outside), routing.ToLocal
			f.Affinity = time.Duration(outside.persistent) * time.Second
		}
		for from, to := range v.sets[admittedSet] {
			if n := len(a); len(from) > n && from[n:] == raw && len(to) >= n {
				first, _ := netip.AddrFromSlice([]byte(from[:n]))
				f.Admitted = append(f.Admitted, between(first, to[:n]))
			}
		}
		slices.SortFunc(f.Admitted, netip.Prefix.Compare)
		out.Frontends = append(out.Frontends, f)
	}
}

// way says what happens to a side's packets, and gives the virtual server that takes them.
func (v *view) way(w *dataplane.Way, raw string, k key, refused, dropped, led set) *server {
	switch to, isLed := v.sets[led][raw]; {
	case v.has(refused, raw):
		w.Action = routing.Reject
		return nil
	case v.has(dropped, raw):
		w.Action = routing.Drop
		return nil
	case isLed:
		whole := append(slices.Clone(to[:len(to)-4]), byte(k.protocol), 0, 0, 0)
		raw = string(append(whole, to[len(to)-4:]...))
		k, _ = parseFrontendKey([]byte(raw), v.v6)
	}
	s := v.kernel[k]
	if s == nil || !v.has(virtualSet, raw) {
		w.Lost = true
		return nil
	}
	w.Action, w.Count = routing.ToCluster, len(v.slots(s))
	return s
}

// slots gives the backends that take new connections.
func (v *view) slots(s *server) (out []dataplane.Slot) {
	for at, l := range s.backends {
		if l.weight > 0 {
			a := string(at.Addr().AsSlice())
			out = append(out, dataplane.Slot{AddrPort: at, Remote: !v.has(localSet, a), Hairpin: v.has(hairpinSet, a+a)})
		}
	}
	slices.SortFunc(out, func(a, b dataplane.Slot) int { return a.Compare(b.AddrPort) })
	return out
}

// workloads gives the workloads' ranges, in order.
func (t *tables) workloads(f *family) (out []netip.Prefix, err error) {
	rules, err := t.conn.GetRules(f.of, &nftables.Chain{Name: leadInChain, Table: f.of})
	if err != nil {
		return nil, fmt.Errorf("read chain %s of %s: %w", leadInChain, f.name(), err)
	}
	for _, rule := range rules {
		var mask []byte
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Bitwise:
				mask = e.Mask
			case *expr.Cmp:
				first, ok := netip.AddrFromSlice(e.Data)
				if !ok || len(mask) != len(e.Data) {
					continue
				}
				last := slices.Clone(e.Data)
				for i := range last {
					last[i] |= ^mask[i]
				}
				out = append(out, between(first, last))
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

// between gives the prefix from its first to its last address.
func between(first netip.Addr, last []byte) netip.Prefix {
	bits := first.BitLen()
	for i, b := range first.AsSlice() {
		if differ := b ^ last[i]; differ != 0 {
			for bits = 8 * i; differ < 0x80; differ <<= 1 {
				bits++
			}
			break
		}
	}
	return netip.PrefixFrom(first, bits)
}
