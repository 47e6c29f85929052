package records

import (
	"fmt"
	"net/netip"
	"strings"
)

// Owner is what one name of the zone holds. An Owner that holds nothing is an
// empty non-terminal (RFC 8020): the name exists, because there are names below
// it, and answers NODATA.
type Owner struct {
	Name  Name
	Addrs []netip.Addr // A and AAAA
	SRV   []SRV
	Alias Name   // CNAME; then nothing else is there
	Hosts []Name // PTR
	NS    []SRV  // Target and Addrs only
	Text  string // TXT, a single string

	outranked []Name // of a reverse name: what Hosts would be without the present ones
}

// SRV is one SRV record (RFC 2782) with its target's addresses, which go along
// as additional records.
type SRV struct {
	Weight uint16
	Port   uint16
	Target Name
	Addrs  []netip.Addr
}

// Empty reports whether the name only exists, and holds nothing.
func (o Owner) Empty() bool {
	return len(o.Addrs)+len(o.SRV)+len(o.Hosts)+len(o.NS) == 0 && o.Alias == "" && o.Text == ""
}

// String lists the records like lines of a master file, without TTL and class.
func (o Owner) String() string {
	var lines []string
	add := func(typ string, data any) { lines = append(lines, fmt.Sprintf("%s %s %v", o.Name, typ, data)) }
	for _, a := range o.Addrs {
		if a.Is4() {
			add("A", a)
		} else {
			add("AAAA", a)
		}
	}
	for _, r := range o.SRV {
		add("SRV", fmt.Sprintf("0 %d %d %s %v", r.Weight, r.Port, r.Target, r.Addrs))
	}
	if o.Alias != "" {
		add("CNAME", o.Alias)
	}
	for _, h := range o.Hosts {
		add("PTR", h)
	}
	for _, r := range o.NS {
		add("NS", fmt.Sprintf("%s %v", r.Target, r.Addrs))
	}
	if o.Text != "" {
		add("TXT", fmt.Sprintf("%q", o.Text))
	}
	if lines == nil {
		return o.Name.String() + " exists"
	}
	return strings.Join(lines, "\n")
}
