package ipvs

import (
	"net/netip"

	"github.com/google/nftables"
)

// Table is the name of our tables, one for each family.
const Table = "portico-ipvs"

// set is one of our sets and maps, or the routes.
type set uint8

const (
	oursSet           set = iota // virtual servers that we made, or are about to
	freshSet                     // those for datagrams whose old flows conntrack has not forgotten yet
	virtualSet                   // those that packets are led to
	ledInsideMap                 // doors whose packets go to another virtual server, by side
	ledOutsideMap                //
	refusedInsideSet             // doors that answer with an error
	refusedOutsideSet            //
	droppedInsideSet             // doors that don't answer
	droppedOutsideSet            //
	guardedSet                   // doors that some sources alone may use
	admittedSet                  // source . door: those that may
	clusterIPsSet                // whose other ports are refused
	doorsSet                     // external IPs and load-balancer addresses
	hairpinSet                   // backend . backend: source and destination of one that asks itself
	localSet                     // backends on this node
	setCount
	routeSet = setCount // no set: addresses outside the service ranges, each with a route
)

var setNames = [setCount]string{
	"ours", "fresh", "virtual", "led-inside", "led-outside", "refused-inside", "refused-outside", "dropped-inside", "dropped-outside",
	"guarded", "admitted", "cluster-ips", "doors", "hairpin", "local-backends",
}

// early reports whether facts of a set must be there before the virtual servers that need
// them, and go after them: the others lead packets to virtual servers.
func (s set) early() bool {
	return s == oursSet || s == freshSet || s == hairpinSet || s == localSet || s == routeSet
}

// family is one of our tables.
type family struct {
	v6   bool
	of   *nftables.Table
	sets [setCount]*nftables.Set
}

func newFamily(v6 bool) *family {
	f := &family{v6: v6, of: &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}}
	addr := nftables.TypeIPAddr
	if v6 {
		f.of.Family, addr = nftables.TableFamilyIPv6, nftables.TypeIP6Addr
	}
	door := nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
	for s := range f.sets {
		out := &nftables.Set{Table: f.of, Name: setNames[s], KeyType: door, Concatenation: true}
		switch set(s) {
		case ledInsideMap, ledOutsideMap:
			out.IsMap, out.DataType = true, nftables.MustConcatSetType(addr, nftables.TypeInetService)
		case admittedSet:
			out.KeyType, out.Interval = nftables.MustConcatSetType(addr, addr, nftables.TypeInetProto, nftables.TypeInetService), true
		case clusterIPsSet, doorsSet, localSet:
			out.KeyType, out.Concatenation = addr, false
		case hairpinSet:
			out.KeyType = nftables.MustConcatSetType(addr, addr)
		}
		f.sets[s] = out
	}
	return f
}

func (f *family) name() string {
	if f.v6 {
		return "ip6 " + Table
	}
	return "ip " + Table
}

// element is a fact as nftables has it.
func (x *fact) element() nftables.SetElement {
	e := nftables.SetElement{Key: []byte(x.key)}
	switch x.set {
	case admittedSet:
		e.KeyEnd = []byte(x.value)
	case ledInsideMap, ledOutsideMap:
		e.Val = []byte(x.value)
	}
	return e
}

// addressOf gives the address of a fact that has nothing else.
func (x *fact) addressOf() netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(x.key))
	return a
}
