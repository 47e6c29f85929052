package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/metallb"
)

const adKind = "BGPAdvertisement"

// advertisement is a BGPAdvertisement that is for this node and can be used.
type advertisement struct {
	*metallb.BGPAdvertisement
	length, length6 int
	communities
}

// readAdvertisements reads those for this node, by name. One with a fault isn't used at
// all: routes without the community that should hold them back could go too far.
func (d *decision) readAdvertisements() {
	aliases := d.aliases()
	for _, object := range d.config.BGPAdvertisements {
		good := d.readable(adKind, object.Name, map[string][]metav1.LabelSelector{
			"ipAddressPoolSelectors": object.Spec.IPAddressPoolSelectors,
			"serviceSelectors":       object.Spec.ServiceSelectors,
			"nodeSelectors":          object.Spec.NodeSelectors,
		})
		d.plan.Faults = append(d.plan.Faults, announcing.PoolFaults(adKind, object.Name, object.Spec.IPAddressPools, d.config.Pools)...)
		if !announcing.Matches(object.Spec.NodeSelectors, d.self.Labels) {
			continue
		}
		ad := advertisement{BGPAdvertisement: object, length: 32, length6: 128}
		good = d.readLength(object, "aggregationLength", object.Spec.AggregationLength, &ad.length) && good
		good = d.readLength(object, "aggregationLengthV6", object.Spec.AggregationLengthV6, &ad.length6) && good
		if len(object.Spec.ServiceSelectors) > 0 && (ad.length != 32 || ad.length6 != 128) {
			d.fault(adKind, object.Name, "spec.serviceSelectors", "can't be combined with an aggregation length: the aggregate announces other Services' addresses too")
			good = false
		}
		for i, peer := range object.Spec.Peers {
			if !slices.ContainsFunc(d.config.BGPPeers, func(p *metallb.BGPPeer) bool { return p.Name == peer }) {
				d.fault(adKind, object.Name, fmt.Sprintf("spec.peers[%d]", i), "there is no BGPPeer "+peer)
			}
		}
		var ok bool
		ad.communities, ok = d.readCommunities(object, aliases)
		if good && ok {
			d.ads = append(d.ads, ad)
		}
	}
}

func (d *decision) readLength(ad *metallb.BGPAdvertisement, field string, value *int32, length *int) bool {
	if value == nil {
		return true
	}
	if *value < 1 || int(*value) > *length {
		d.fault(adKind, ad.Name, "spec."+field, fmt.Sprintf("%d isn't from 1 to %d", *value, *length))
		return false
	}
	*length = int(*value)
	return true
}

// readable tells whether the selectors can be read.
func (d *decision) readable(kind, name string, fields map[string][]metav1.LabelSelector) bool {
	faults := announcing.SelectorFaults(kind, name, fields)
	d.plan.Faults = append(d.plan.Faults, faults...)
	return len(faults) == 0
}

// selects tells whether the advertisement is for a Service's address.
func (a *advertisement) selects(s *announcing.Service, pool *metallb.IPAddressPool) bool {
	return announcing.ForPool(a.Spec.IPAddressPools, a.Spec.IPAddressPoolSelectors, pool) &&
		announcing.Matches(a.Spec.ServiceSelectors, labels.Set(s.Labels))
}

func (a *advertisement) isFor(peer string) bool {
	return len(a.Spec.Peers) == 0 || slices.Contains(a.Spec.Peers, peer)
}

// prefix gives what is announced for an address. It is false when the pool has no whole
// prefix of that length where the address is: others' addresses would be drawn here. The
// rule is MetalLB's, so that its manifests are read alike: of a range that isn't a CIDR one
// whole prefix is enough.
func (a *advertisement) prefix(addr netip.Addr, pool *metallb.IPAddressPool) (netip.Prefix, bool) {
	length := a.length
	if addr.Is6() {
		length = a.length6
	}
	p := netip.PrefixFrom(addr, length).Masked()
	if length == addr.BitLen() {
		return p, true
	}
	return p, slices.ContainsFunc(pool.Spec.Addresses, func(text string) bool {
		from, to, ok := readRange(text)
		return ok && from.Is6() == addr.Is6() && !addr.Less(from) && !to.Less(addr) && hasWhole(from, to, length)
	})
}

// hasWhole tells whether a prefix of a length lies between two addresses.
func hasWhole(from, to netip.Addr, length int) bool {
	p := netip.PrefixFrom(from, length).Masked()
	if p.Addr() != from {
		next := last(p).Next()
		if !next.IsValid() {
			return false
		}
		p = netip.PrefixFrom(next, length)
	}
	return !to.Less(last(p))
}

// last gives the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// readRange reads an entry of a pool: a CIDR, or two addresses with a dash.
func readRange(text string) (from, to netip.Addr, ok bool) {
	if first, second, dashed := strings.Cut(text, "-"); dashed {
		from, to = readAddress(strings.TrimSpace(first)), readAddress(strings.TrimSpace(second))
		return from, to, from.IsValid() && to.IsValid() && from.Is6() == to.Is6() && !to.Less(from)
	}
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil {
		return from, to, false
	}
	return p.Masked().Addr(), last(p.Masked()), true
}
