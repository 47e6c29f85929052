package routing

import (
	"iter"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Change is the difference of two versions of frontends: what a data plane that
// holds the old ones must do to hold the new ones.
type Change struct {
	Set     []*Frontend // new or different
	Removed []Key
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Set) == 0 && len(c.Removed) == 0 }

// Diff compares two versions of one Service's frontends.
func Diff(old, new []Frontend) Change {
	var c Change
	before := make(map[Key]*Frontend, len(old))
	for i := range old {
		before[old[i].Key] = &old[i]
	}
	for i := range new {
		f := &new[i]
		if b := before[f.Key]; b == nil || !b.Equal(f) {
			c.Set = append(c.Set, f)
		}
		delete(before, f.Key)
	}
	for i := range old { // in the order of old, so that the result is always the same
		if before[old[i].Key] != nil {
			c.Removed = append(c.Removed, old[i].Key)
		}
	}
	return c
}

// Table is the union of the frontends of all Services on a node. Where two claim
// one key the older Service has it. The zero value is not usable: NewTable.
type Table struct {
	services map[types.NamespacedName][]Frontend
	claims   map[Key][]*Frontend // the owner first; nearly always one
}

// NewTable gives an empty table.
func NewTable() *Table {
	return &Table{services: map[types.NamespacedName][]Frontend{}, claims: map[Key][]*Frontend{}}
}

// Put replaces one Service's frontends (none: the Service is gone) and says what
// that changes in the table. Its cost depends on this Service alone.
func (t *Table) Put(name types.NamespacedName, frontends []Frontend) Change {
	old := t.services[name]
	if len(frontends) == 0 {
		delete(t.services, name)
	} else {
		t.services[name] = frontends
	}
	var out Change
	own := Diff(old, frontends)
	for _, key := range own.Removed {
		t.claim(&out, name, key, nil)
	}
	changed := make(map[Key]bool, len(own.Set))
	for _, f := range own.Set {
		changed[f.Key] = true
		t.claim(&out, name, f.Key, f)
	}
	for i := range frontends { // equal ones: the table must not keep the old version alive
		if f := &frontends[i]; !changed[f.Key] {
			var none Change
			t.claim(&none, name, f.Key, f)
		}
	}
	return out
}

// claim replaces name's claim on key by f (nil: none) and notes in out what the
// owner of the key becomes.
func (t *Table) claim(out *Change, name types.NamespacedName, key Key, f *Frontend) {
	claims := t.claims[key]
	var owner *Frontend
	if len(claims) > 0 {
		owner = claims[0]
	}
	claims = slices.DeleteFunc(claims, func(c *Frontend) bool { return c.Service == name })
	if f != nil {
		at := slices.IndexFunc(claims, f.Older)
		if at < 0 {
			at = len(claims)
		}
		claims = slices.Insert(claims, at, f)
	}
	if len(claims) == 0 {
		delete(t.claims, key)
		out.Removed = append(out.Removed, key)
		return
	}
	t.claims[key] = claims
	if claims[0] != owner {
		out.Set = append(out.Set, claims[0])
	}
}

// Get gives the frontend that serves key, nil when there is none.
func (t *Table) Get(key Key) *Frontend {
	if c := t.claims[key]; len(c) > 0 {
		return c[0]
	}
	return nil
}

// Len is the number of frontends.
func (t *Table) Len() int { return len(t.claims) }

// All gives every frontend that is served, in no order that means anything.
func (t *Table) All() iter.Seq[*Frontend] {
	return func(yield func(*Frontend) bool) {
		for _, c := range t.claims {
			if !yield(c[0]) {
				return
			}
		}
	}
}

// Services gives the names of the Services that have frontends.
func (t *Table) Services() iter.Seq[types.NamespacedName] {
	return func(yield func(types.NamespacedName) bool) {
		for name := range t.services {
			if !yield(name) {
				return
			}
		}
	}
}

// Losers gives the frontends that an older Service keeps from serving.
func (t *Table) Losers() iter.Seq2[*Frontend, *Frontend] {
	return func(yield func(loser, owner *Frontend) bool) {
		for _, c := range t.claims {
			for _, l := range c[1:] {
				if !yield(l, c[0]) {
					return
				}
			}
		}
	}
}
