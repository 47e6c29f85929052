package routing

import (
	"iter"
	"maps"
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

// Table is the union of the frontends of all Services on a node. Where two claim
// one key the one that comes Before has it. The zero value is not usable: NewTable.
type Table struct {
	services map[types.NamespacedName][]Frontend
	owners   map[Key]*Frontend
	// contested has all claims, the owner's first, of the few keys that several
	// Services claim.
	contested map[Key][]*Frontend
}

// NewTable gives an empty table.
func NewTable() *Table {
	return &Table{services: map[types.NamespacedName][]Frontend{}, owners: map[Key]*Frontend{}, contested: map[Key][]*Frontend{}}
}

// Put replaces one Service's frontends (none: the Service is gone) and says what
// that changes in the table. Its cost depends on this Service alone. A frontend that
// is equal to the old one is no change; the table holds the new one all the same, so
// that nothing keeps the old version alive.
func (t *Table) Put(name types.NamespacedName, frontends []Frontend) Change {
	old := t.services[name]
	if len(frontends) == 0 {
		delete(t.services, name)
	} else {
		t.services[name] = frontends
	}
	var out Change
	had, has := index(old), index(frontends)
	for i := range old { // in the order of old, so that the result is always the same
		if has.find(old[i].Key, i) == nil {
			t.drop(&out, &old[i])
		}
	}
	for i := range frontends {
		f := &frontends[i]
		t.claim(&out, had.find(f.Key, i), f)
	}
	return out
}

// claim puts f in the place of the same Service's before (nil: it had no claim), and
// notes a new or different owner in out.
func (t *Table) claim(out *Change, before, f *Frontend) {
	owner := t.owners[f.Key]
	claims := t.contested[f.Key]
	switch {
	case owner == nil || claims == nil && before != nil: // nobody else is there
		t.owners[f.Key] = f
	default:
		if claims == nil {
			claims = []*Frontend{owner}
		}
		claims = slices.DeleteFunc(claims, func(c *Frontend) bool { return c == before })
		at := slices.IndexFunc(claims, f.Before)
		if at < 0 {
			at = len(claims)
		}
		claims = slices.Insert(claims, at, f)
		t.contested[f.Key] = claims
		t.owners[f.Key] = claims[0]
	}
	now := t.owners[f.Key]
	if same := owner != nil && owner == now || now == f && owner == before && before != nil && before.Equal(f); !same {
		out.Set = append(out.Set, now)
	}
}

// drop takes a claim away.
func (t *Table) drop(out *Change, f *Frontend) {
	owner := t.owners[f.Key]
	claims := t.contested[f.Key]
	if claims == nil {
		delete(t.owners, f.Key)
		out.Removed = append(out.Removed, f.Key)
		return
	}
	claims = slices.DeleteFunc(claims, func(c *Frontend) bool { return c == f })
	t.owners[f.Key] = claims[0]
	if len(claims) == 1 {
		delete(t.contested, f.Key)
	} else {
		t.contested[f.Key] = claims
	}
	if claims[0] != owner {
		out.Set = append(out.Set, claims[0])
	}
}

// few is how many frontends are searched one after the other: more Services have
// one or two than any other number.
const few = 16

// keyed finds frontends of one Service by key.
type keyed struct {
	list []Frontend
	by   map[Key]*Frontend // where there are more than a few
}

func index(list []Frontend) keyed {
	k := keyed{list: list}
	if len(list) > few {
		k.by = make(map[Key]*Frontend, len(list))
		for i := range list {
			k.by[list[i].Key] = &list[i]
		}
	}
	return k
}

// find looks first where the other version has it, which is nearly always right.
func (k *keyed) find(key Key, hint int) *Frontend {
	switch {
	case hint < len(k.list) && k.list[hint].Key == key:
		return &k.list[hint]
	case k.by != nil:
		return k.by[key]
	}
	return find(k.list, key)
}

func find(list []Frontend, key Key) *Frontend {
	for i := range list {
		if list[i].Key == key {
			return &list[i]
		}
	}
	return nil
}

// Get gives the frontend that serves key, nil when there is none.
func (t *Table) Get(key Key) *Frontend { return t.owners[key] }

// Len is the number of frontends.
func (t *Table) Len() int { return len(t.owners) }

// All gives every frontend that is served, in no order that means anything.
func (t *Table) All() iter.Seq[*Frontend] { return maps.Values(t.owners) }

// Services gives the names of the Services that have frontends.
func (t *Table) Services() iter.Seq[types.NamespacedName] { return maps.Keys(t.services) }

// Claims gives the frontends of one Service, those that others have included.
func (t *Table) Claims(name types.NamespacedName) []Frontend { return t.services[name] }

// Rivals gives the other Services that claim a key of these frontends. Theirs is the
// only view of the table that a change of this Service may change.
func (t *Table) Rivals(frontends []Frontend) []types.NamespacedName {
	var out []types.NamespacedName
	for i := range frontends {
		for _, c := range t.contested[frontends[i].Key] {
			if c.Service != frontends[i].Service && !slices.Contains(out, c.Service) {
				out = append(out, c.Service)
			}
		}
	}
	return out
}
