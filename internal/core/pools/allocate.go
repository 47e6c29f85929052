package pools

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Result is what a Service gets.
type Result struct {
	Addresses []netip.Addr // the primary family's first, or in the order asked for
	Pool      string
	// Partial says why a Service that prefers both families has one.
	Partial *Refusal
}

// Allocate decides which addresses the Service has from now on, and notes it: those of its
// status as long as it may keep them, else what it asks for, else free ones (LB-01). With a
// refusal it has none.
func (a *Allocator) Allocate(svc *corev1.Service, namespaceLabels map[string]string) (Result, *Refusal) {
	t := &tenant{name: nameOf(svc), key: KeyOf(svc), ports: portsOf(svc)}
	w, refusal := readWish(svc, namespaceLabels)
	if refusal == nil && len(a.set.byName) == 0 {
		refusal = refuse(NoPools, "there is no IPAddressPool in the namespace metallb-system; make one, for example with `portico pool add lan 192.0.2.240-192.0.2.250`")
	}
	if refusal == nil {
		refusal = w.contradiction()
	}
	before := a.remove(t.name) // its own addresses are no hindrance
	var result Result
	if refusal == nil {
		result, refusal = a.choose(svc, w, t)
	}
	if refusal == nil {
		t.addrs = result.Addresses
	}
	a.put(t, before)
	return result, refusal
}

// contradiction tells whether the addresses asked for can't be those of the Service.
func (w *wish) contradiction() *Refusal {
	if len(w.wanted) == 0 {
		return nil
	}
	for _, addr := range w.wanted {
		if !slices.Contains(w.families, addr.BitLen()) {
			return refuse(BadRequest, "the Service asks for the address %s and has no %s: its spec.ipFamilies say otherwise", addr, familyName(addr.BitLen()))
		}
	}
	if w.policy == corev1.IPFamilyPolicyRequireDualStack && len(w.wanted) < len(w.families) {
		return refuse(BadRequest, "the Service requires both families and asks for %s only; name one address of each in the annotation %s, with a comma between",
			w.wanted[0], AddressesAnnotation)
	}
	return nil
}

func (a *Allocator) choose(svc *corev1.Service, w *wish, t *tenant) (Result, *Refusal) {
	if len(w.wanted) > 0 {
		return a.exactly(w.wanted, w, t)
	}
	if has := Addresses(svc); len(has) > 0 && w.fits(has) {
		if result, refusal := a.exactly(has, w, t); refusal == nil {
			return a.complete(result, w, t), nil
		}
	}
	if w.pool == "" {
		return a.fromAny(w, t)
	}
	p := a.set.byName[w.pool]
	if p == nil {
		return Result{}, refuse(NoPool, "the IPAddressPool %q that the annotation %s names isn't there; there are %s",
			w.pool, PoolAnnotation, strings.Join(a.set.Names(), ", "))
	}
	if !p.allows(w) {
		return Result{}, refuse(NotAllowed, "the IPAddressPool %s is for other Services: its spec.serviceAllocation doesn't match this one", p.Name)
	}
	return a.fromThese([]*pool{p}, w, t)
}

// fits tells whether addresses of the status are what the families ask for.
func (w *wish) fits(has []netip.Addr) bool {
	families := make([]int, len(has))
	for i, addr := range has {
		families[i] = addr.BitLen()
		if !slices.Contains(w.families, families[i]) {
			return false
		}
	}
	if len(slices.Compact(families)) != len(has) || len(has) > len(w.families) {
		return false
	}
	return len(has) == len(w.families) || w.policy == corev1.IPFamilyPolicyPreferDualStack
}

// exactly gives the Service these addresses or says why not.
func (a *Allocator) exactly(addrs []netip.Addr, w *wish, t *tenant) (Result, *Refusal) {
	result := Result{Addresses: addrs}
	for _, addr := range addrs {
		found := a.set.Find(addr)
		if found == nil {
			return Result{}, refuse(NotInPool, "%s is in no IPAddressPool; ask for one that is, or add it: `portico pool add NAME %s/%d`", addr, addr, addr.BitLen())
		}
		p := a.set.byName[found.Name]
		if w.pool != "" && p.Name != w.pool {
			return Result{}, refuse(BadRequest, "%s is of the IPAddressPool %s, and the annotation %s asks for %s", addr, p.Name, PoolAnnotation, w.pool)
		}
		if !p.allows(w) {
			return Result{}, refuse(NotAllowed, "%s is of the IPAddressPool %s, which is for other Services: its spec.serviceAllocation doesn't match this one", addr, p.Name)
		}
		if refusal := a.conflict(addr, t); refusal != nil {
			return Result{}, refusal
		}
		result.Pool = cmp.Or(result.Pool, p.Name)
		// What the Service has it keeps, also when its pool was split in two.
		if p.Name != result.Pool && len(w.wanted) > 0 {
			return Result{}, refuse(BadRequest, "%s is of the IPAddressPool %s and %s of %s; both addresses of a Service come from one pool", addrs[0], result.Pool, addr, p.Name)
		}
	}
	return result, nil
}

// complete adds the second address where there was only one.
func (a *Allocator) complete(r Result, w *wish, t *tenant) Result {
	for _, family := range w.families {
		if slices.ContainsFunc(r.Addresses, func(addr netip.Addr) bool { return addr.BitLen() == family }) {
			continue
		}
		p := a.set.byName[r.Pool]
		if addr, ok := a.pick(p, family, t); ok {
			r.Addresses = slices.Concat(r.Addresses, []netip.Addr{addr})
		} else {
			r.Partial = lacking([]*pool{p}, family)
		}
	}
	return r
}

// fromAny tries the pools pinned to the Service, then those for all.
func (a *Allocator) fromAny(w *wish, t *tenant) (Result, *Refusal) {
	var pinned, open []*pool
	for _, name := range a.set.Names() {
		switch p := a.set.byName[name]; {
		case !p.autoAssigns():
		case p.Spec.ServiceAllocation == nil:
			open = append(open, p)
		case p.allows(w):
			pinned = append(pinned, p)
		}
	}
	slices.SortStableFunc(pinned, func(a, b *pool) int { return cmp.Compare(a.priority(), b.priority()) })
	if len(pinned)+len(open) == 0 {
		return Result{}, refuse(NotAllowed, "no IPAddressPool is for this Service without asking: %s have autoAssign false or a spec.serviceAllocation that doesn't match; name one in the annotation %s",
			strings.Join(a.set.Names(), ", "), PoolAnnotation)
	}
	if result, refusal := a.fromThese(pinned, w, t); refusal == nil {
		return result, nil
	}
	result, refusal := a.fromThese(open, w, t)
	if refusal != nil {
		_, refusal = a.fromThese(slices.Concat(pinned, open), w, t) // its words name all
	}
	return result, refusal
}

// fromThese gives an address of each family that the Service needs, both from one pool.
// One that prefers both is content with the primary family, and then with the other.
func (a *Allocator) fromThese(list []*pool, w *wish, t *tenant) (Result, *Refusal) {
	var partial Result
	for _, family := range append([]int{0}, w.families...) {
		for _, p := range list {
			var addrs []netip.Addr
			for _, f := range w.families {
				if addr, ok := a.pick(p, f, t); ok && (family == 0 || family == f) {
					addrs = append(addrs, addr)
				}
			}
			if len(addrs) == len(w.families) {
				return Result{Addresses: addrs, Pool: p.Name}, nil
			}
			if family != 0 && len(addrs) == 1 && partial.Pool == "" {
				partial = Result{Addresses: addrs, Pool: p.Name}
			}
		}
	}
	missing := a.missing(list, w, t)
	if w.policy == corev1.IPFamilyPolicyPreferDualStack && partial.Pool != "" {
		partial.Partial = missing
		return partial, nil
	}
	return Result{}, missing
}

// missing says why there is nothing of one family, or no pool with both.
func (a *Allocator) missing(list []*pool, w *wish, t *tenant) *Refusal {
	for _, family := range w.families {
		if !slices.ContainsFunc(list, func(p *pool) bool { _, ok := a.pick(p, family, t); return ok }) {
			return lacking(list, family)
		}
	}
	return refuse(NoFamily, "both addresses of a Service come from one IPAddressPool, and none of %s has a free one of each family; add ranges of both to one pool", namesOf(list))
}

// lacking says why none of the pools has an address of the family.
func lacking(list []*pool, family int) *Refusal {
	with := slices.DeleteFunc(slices.Clone(list), func(p *pool) bool { return !p.hasFamily(family) })
	if len(with) == 0 {
		return refuse(NoFamily, "the Service needs an %s address, and %s; add a range to one", familyName(family), none(list))
	}
	var total int64
	for _, p := range with {
		total += p.size(family)
	}
	return refuse(Exhausted, "all %d %s addresses of %s are given to Services; add a range, or delete a Service of type LoadBalancer (`portico pools` lists them)",
		total, familyName(family), namesOf(with))
}

func none(list []*pool) string {
	if len(list) == 0 {
		return "no IPAddressPool is for it"
	}
	return "of " + namesOf(list) + " none has any"
}

func namesOf(list []*pool) string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	if len(names) == 1 {
		return "the IPAddressPool " + names[0]
	}
	return fmt.Sprintf("the IPAddressPools %s", strings.Join(names, ", "))
}
