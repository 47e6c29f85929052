package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Held is a claim as it is stored.
type Held struct {
	Claim
	Revision int64 // of the store, when it was made
}

// Holder is an object, with what it claims by what it says.
type Holder struct {
	Resource        schema.GroupResource
	Namespace, Name string
	UID             types.UID
	ResourceVersion string
	Created         time.Time
	Claims          []Claim
}

func (h *Holder) String() string {
	if h.Namespace == "" {
		return h.Resource.String() + " " + h.Name
	}
	return h.Resource.String() + " " + h.Namespace + "/" + h.Name
}

func (h *Holder) isService() bool { return h != nil && h.Resource.Resource == "services" }

func (h *Holder) wants(key string) bool {
	return slices.ContainsFunc(h.Claims, func(c Claim) bool { return c.Key == key })
}

// Finding is one claim that doesn't agree with the objects.
type Finding struct {
	Reason  string // of an event
	Message string
	Key     string
	Object  *Holder // whom it concerns; nil when nobody is left
	Repair  *Repair // nil: only people can mend it
}

// Repair makes one claim what it should be. It holds only if the claim and the objects
// are still as they were read, which the store must compare.
type Repair struct {
	Key      string
	Revision int64     // of the claim that was read; 0 when there was none
	Owner    types.UID // who is to have it; "": nobody
	If       []*Holder
}

// checked are the kinds of claims whose holders are known. Others are left alone.
var checked = []Kind{Address, NodePort, MAC, CIDR, Balancer}

// Check compares claims with the objects that may have them, which must have been read
// later than the claims: then a claim whose owner isn't among them is nobody's, as both
// are written together.
func Check(held []Held, holders []*Holder) []Finding {
	slices.SortStableFunc(holders, func(a, b *Holder) int { return a.Created.Compare(b.Created) }) // the older has it
	byUID := make(map[types.UID]*Holder, len(holders))
	wanted := map[string]bool{}
	for _, h := range holders {
		byUID[h.UID] = h
		for _, c := range h.Claims {
			wanted[c.Key] = true
		}
	}
	byKey := make(map[string]Held, len(held))
	var findings []Finding
	for _, h := range held {
		byKey[h.Key] = h
		if owner := byUID[h.Owner]; !wanted[h.Key] && slices.Contains(checked, h.Kind) {
			findings = append(findings, unused(h, owner))
		}
	}
	for _, h := range holders {
		for _, c := range h.Claims {
			is, ok := byKey[c.Key]
			switch owner := byUID[is.Owner]; {
			case !ok:
				findings = append(findings, missing(h, c, Repair{}))
			case is.Owner == h.UID:
			case owner != nil && owner.wants(c.Key):
				findings = append(findings, contested(h, c))
			default:
				findings = append(findings, missing(h, c, Repair{Revision: is.Revision, If: living(owner)}))
			}
		}
	}
	return findings
}

func living(owner *Holder) []*Holder {
	if owner == nil {
		return nil
	}
	// It may come to want the claim, which is no change of the claim then.
	return []*Holder{owner}
}

func unused(h Held, owner *Holder) Finding {
	return Finding{
		Reason: "ClaimNotUsed", Key: h.Key, Object: owner,
		Repair:  &Repair{Key: h.Key, Revision: h.Revision, If: living(owner)},
		Message: subject(owner, h.Claim) + " appears to have leaked: cleaning up",
	}
}

func missing(h *Holder, c Claim, r Repair) Finding {
	r.Key, r.Owner = c.Key, h.UID
	r.If = append(r.If, h)
	return Finding{
		Reason: reason(h, c, "NotAllocated"), Key: c.Key, Object: h, Repair: &r,
		Message: subject(h, c) + " is not allocated; repairing",
	}
}

func contested(h *Holder, c Claim) Finding {
	return Finding{
		Reason: reason(h, c, "AlreadyAllocated"), Key: c.Key, Object: h,
		Message: subject(h, c) + " was assigned to multiple services; please recreate service",
	}
}

// OutOfRange finds the addresses and ports of a Service that no range has. They go on
// working, and can't be had again.
func OutOfRange(h *Holder, ranges []netip.Prefix, ports *PortRange) []Finding {
	var findings []Finding
	for _, c := range h.Claims {
		addr, port := parseKey(c.Key)
		switch {
		case addr.IsValid() && !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) }):
			findings = append(findings, Finding{
				Reason: reason(h, c, "OutOfRange"), Key: c.Key, Object: h,
				Message: subject(h, c) + " is not within any configured Service CIDR; please recreate service",
			})
		case c.Kind == NodePort && !ports.Contains(port):
			findings = append(findings, Finding{
				Reason: reason(h, c, "OutOfRange"), Key: c.Key, Object: h,
				Message: fmt.Sprintf("%s is not within the port range %s; please recreate service", subject(h, c), ports),
			})
		}
	}
	return findings
}

// reason and subject have upstream's words where it has any.
func reason(h *Holder, c Claim, what string) string {
	switch {
	case c.Kind == Address && h.isService():
		return "ClusterIP" + what
	case c.Kind == Address:
		return "Address" + what
	case c.Kind == NodePort:
		return "Port" + what
	case c.Kind == Balancer:
		return "LoadBalancerIP" + what
	}
	return "Claim" + what
}

func subject(h *Holder, c Claim) string {
	addr, port := parseKey(c.Key)
	switch {
	case addr.IsValid() && h.isService():
		return fmt.Sprintf("Cluster IP [%s]: %s", FamilyOf(addr), addr)
	case addr.IsValid():
		return fmt.Sprintf("Address [%s]: %s", FamilyOf(addr), addr)
	case c.Kind == NodePort:
		return fmt.Sprintf("Port %d", port)
	}
	return "The claim " + c.Key
}
