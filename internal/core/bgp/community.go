package bgp

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"portico.dev/portico/internal/core/metallb"
)

// Community is one of RFC 1997: an AS number and a value that it gives a meaning.
type Community uint32

func (c Community) String() string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }

// LargeCommunity is one of RFC 8092.
type LargeCommunity [3]uint32

func (l LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", l[0], l[1], l[2]) }

func compareLarge(a, b LargeCommunity) int { return slices.Compare(a[:], b[:]) }

// communities are those of one advertisement or path, each sorted and once.
type communities struct {
	plain []Community
	large []LargeCommunity
}

func (c *communities) add(text string) error {
	parts := strings.Split(text, ":")
	large := len(parts) == 4 && parts[0] == "large"
	if large {
		parts = parts[1:]
	}
	bits, count := 16, 2
	if large {
		bits, count = 32, 3
	}
	if len(parts) != count {
		return fmt.Errorf("%q is written neither as 65000:100 nor as large:65000:1:2", text)
	}
	var numbers LargeCommunity
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil {
			return fmt.Errorf("%q in %q isn't a number of %d bits", p, text, bits)
		}
		numbers[i] = uint32(n)
	}
	if large {
		c.merge(communities{large: []LargeCommunity{numbers}})
	} else {
		c.merge(communities{plain: []Community{Community(numbers[0]<<16 | numbers[1])}})
	}
	return nil
}

// merge makes new slices: paths share them.
func (c *communities) merge(other communities) {
	c.plain = slices.Concat(c.plain, other.plain)
	slices.SortFunc(c.plain, cmp.Compare)
	c.plain = slices.Compact(c.plain)
	c.large = slices.Concat(c.large, other.large)
	slices.SortFunc(c.large, compareLarge)
	c.large = slices.Compact(c.large)
}

// aliases gives the values of the names in all Community objects. The first object by name
// counts where two explain one name differently.
func (d *decision) aliases() map[string]string {
	values, by := map[string]string{}, map[string]string{}
	for _, object := range d.config.Communities {
		for i, alias := range object.Spec.Communities {
			field := fmt.Sprintf("spec.communities[%d]", i)
			var c communities
			if err := c.add(alias.Value); err != nil {
				d.fault("Community", object.Name, field+".value", err.Error())
			} else if value, ok := values[alias.Name]; !ok {
				values[alias.Name], by[alias.Name] = alias.Value, object.Name
			} else if value != alias.Value {
				d.fault("Community", object.Name, field+".name", fmt.Sprintf("%s is %s in Community %s, which counts", alias.Name, value, by[alias.Name]))
			}
		}
	}
	return values
}

// readCommunities gives those of an advertisement. It is false when one can't be read.
func (d *decision) readCommunities(ad *metallb.BGPAdvertisement, aliases map[string]string) (c communities, ok bool) {
	ok = true
	for i, text := range ad.Spec.Communities {
		value, known := aliases[text]
		if !known {
			value = text
		}
		err := c.add(value)
		if err == nil {
			continue
		}
		if !strings.Contains(text, ":") {
			err = fmt.Errorf("no Community object explains %q", text)
		}
		d.fault(adKind, ad.Name, fmt.Sprintf("spec.communities[%d]", i), err.Error()+"; the advertisement isn't used")
		ok = false
	}
	return c, ok
}
