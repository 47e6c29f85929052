package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// changes are planned transactions: now, and later what now made superfluous.
type changes struct {
	newChains  [2][]chainSpec // draw chains, before the elements that lead there
	now, later elements
}

// elements are additions and deletions of elements. In a transaction deletions
// come first, so that an element can be replaced.
type elements struct {
	sets  map[setRef]*setChange
	order []setRef // in the order of the first change
	count int
}

type setRef struct {
	family int
	name   string
}

type setChange struct{ add, del []element }

func (e *elements) of(family int, set string) *setChange {
	if e.sets == nil {
		e.sets = map[setRef]*setChange{}
	}
	ref := setRef{family, set}
	c := e.sets[ref]
	if c == nil {
		c = &setChange{}
		e.sets[ref] = c
		e.order = append(e.order, ref)
	}
	e.count++
	return c
}

func (e *elements) add(family int, set string, el element) {
	c := e.of(family, set)
	c.add = append(c.add, el)
}

func (e *elements) del(family int, set string, el element) {
	c := e.of(family, set)
	c.del = append(c.del, el)
}

// Limits of one message's element list: an attribute's length has 16 bits.
const maxListBytes = 60 << 10

// messages appends what carries the changes out.
func (e *elements) messages(msgs []message, families [2]*family) []message {
	for _, ref := range e.order {
		msgs = elementMessages(msgs, families[ref.family], ref.name, unix.NFT_MSG_DELSETELEM, e.sets[ref].del)
	}
	for _, ref := range e.order {
		msgs = elementMessages(msgs, families[ref.family], ref.name, unix.NFT_MSG_NEWSETELEM, e.sets[ref].add)
	}
	return msgs
}

func elementMessages(msgs []message, f *family, set string, kind uint16, list []element) []message {
	spec := f.set(set)
	verb, flags := "delete", uint16(0)
	if kind == unix.NFT_MSG_NEWSETELEM {
		verb, flags = "add", unix.NLM_F_CREATE|unix.NLM_F_EXCL
	}
	for len(list) > 0 {
		body := make(attrs, 0, 256)
		body.string(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
		body.string(unix.NFTA_SET_ELEM_LIST_SET, set)
		n := 0
		body.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *attrs) {
			for start := len(*a); n < len(list) && len(*a)-start < maxListBytes; n++ {
				el := list[n]
				if kind == unix.NFT_MSG_DELSETELEM {
					el.data = ""
				}
				spec.appendElement(a, el)
			}
		})
		first := list[0]
		msgs = append(msgs, message{kind: kind, family: f.nf, flags: flags, body: body, explain: func() string {
			return fmt.Sprintf("%s %d elements, the first %s, set %s %s", verb, n, f.describe(spec, first), f.name, set)
		}})
		list = list[n:]
	}
	return msgs
}
