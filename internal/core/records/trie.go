package records

import (
	"hash/maphash"
	"math/bits"
	"slices"
)

// trie is a persistent hash trie from keys to nodes: 32-way branches that hold
// only the slots in use. A reader that has one sees it unchanged for ever; a
// writer shares everything with the version before but the path to the leaf it
// changes, a few hundred bytes however many names there are.
type trie struct {
	seed maphash.Seed
	root *branch
	size int
}

const (
	fanBits = 5
	fanMask = 1<<fanBits - 1
	// lastShift is that of the last level for which a hash has bits. What is below
	// has wholly equal hashes, and lies in one row.
	lastShift = 60
)

// edit stands for one batch of changes: branches made in it are nobody else's
// yet and are changed in place.
type edit struct{ _ byte }

// branch has its leaves and its children in the order of their bits. The slices are
// as long as what they hold: most branches are small and stay for long.
type branch struct {
	leafBits, childBits uint32
	owner               *edit
	leaves              []leaf
	children            []*branch
}

// leaf is a key behind its length, and behind that its Node: one piece of memory that
// the garbage collector needn't look into.
type leaf string

func newLeaf(key string, n Node) leaf {
	b := make([]byte, 0, 1+len(key)+len(n))
	b = append(append(append(b, byte(len(key))), key...), n...)
	return leaf(b)
}

func (l leaf) key() string { return string(l[1 : 1+int(l[0])]) }
func (l leaf) node() Node  { return Node(l[1+int(l[0]):]) }

func newTrie() trie { return trie{seed: maphash.MakeSeed(), root: &branch{}} }

// place is the bit of a hash at a level, and how many of those in use come before.
func place(used uint32, hash uint64, shift uint) (bit uint32, index int) {
	bit = 1 << (hash >> shift & fanMask)
	return bit, bits.OnesCount32(used & (bit - 1))
}

// find gives the node of a key; false when there is none.
func (t *trie) find(key []byte) (Node, bool) {
	hash := maphash.Bytes(t.seed, key)
	b := t.root
	for shift := uint(0); shift <= lastShift; shift += fanBits {
		if bit, i := place(b.childBits, hash, shift); b.childBits&bit != 0 {
			b = b.children[i]
			continue
		}
		if bit, i := place(b.leafBits, hash, shift); b.leafBits&bit != 0 && b.leaves[i].key() == string(key) {
			return b.leaves[i].node(), true
		}
		return "", false
	}
	if i := b.row(string(key)); i >= 0 {
		return b.leaves[i].node(), true
	}
	return "", false
}

// row finds a key below the last level.
func (b *branch) row(key string) int {
	return slices.IndexFunc(b.leaves, func(l leaf) bool { return l.key() == key })
}

// set stores a node; the tries that were copied from t before keep theirs.
func (t *trie) set(e *edit, key string, n Node) {
	t.root = t.root.own(e)
	if t.root.set(e, newLeaf(key, n), t.hash, 0) {
		t.size++
	}
}

// remove takes a key out, if it is there.
func (t *trie) remove(e *edit, key string) {
	if _, there := t.find([]byte(key)); !there {
		return
	}
	t.root = t.root.own(e)
	t.root.remove(e, key, t.hash(key), 0)
	t.size--
}

func (t *trie) hash(key string) uint64 { return maphash.String(t.seed, key) }

// own gives b itself when it was made in this batch, else a copy that was.
func (b *branch) own(e *edit) *branch {
	if b.owner == e && e != nil {
		return b
	}
	return &branch{leafBits: b.leafBits, childBits: b.childBits, owner: e, leaves: slices.Clone(b.leaves), children: slices.Clone(b.children)}
}

// set reports whether the key is new. b is the batch's own.
func (b *branch) set(e *edit, l leaf, hash func(string) uint64, shift uint) bool {
	if shift > lastShift {
		if i := b.row(l.key()); i >= 0 {
			b.leaves[i] = l
			return false
		}
		b.leaves = append(b.leaves, l)
		return true
	}
	h := hash(l.key())
	if bit, i := place(b.childBits, h, shift); b.childBits&bit != 0 {
		b.children[i] = b.children[i].own(e)
		return b.children[i].set(e, l, hash, shift+fanBits)
	}
	bit, i := place(b.leafBits, h, shift)
	if b.leafBits&bit == 0 {
		b.leafBits |= bit
		b.leaves = insert(b.leaves, i, l)
		return true
	}
	old := b.leaves[i]
	if old.key() == l.key() {
		b.leaves[i] = l
		return false
	}
	// Two hashes meet here. They part somewhere below.
	child := &branch{owner: e}
	child.set(e, old, hash, shift+fanBits)
	child.set(e, l, hash, shift+fanBits)
	b.leafBits &^= bit
	b.leaves = without(b.leaves, i)
	_, i = place(b.childBits, h, shift)
	b.childBits |= bit
	b.children = insert(b.children, i, child)
	return true
}

// remove takes out a key that is there and reports whether b is empty now.
func (b *branch) remove(e *edit, key string, hash uint64, shift uint) bool {
	if shift > lastShift {
		b.leaves = without(b.leaves, b.row(key))
		return len(b.leaves) == 0
	}
	if bit, i := place(b.childBits, hash, shift); b.childBits&bit != 0 {
		b.children[i] = b.children[i].own(e)
		if b.children[i].remove(e, key, hash, shift+fanBits) {
			b.childBits &^= bit
			b.children = without(b.children, i)
		}
	} else {
		bit, i := place(b.leafBits, hash, shift)
		b.leafBits &^= bit
		b.leaves = without(b.leaves, i)
	}
	return len(b.leaves)+len(b.children) == 0
}

// insert and without give slices that are no longer than they must be.

func insert[T any](list []T, i int, v T) []T {
	out := make([]T, len(list)+1)
	copy(out, list[:i])
	out[i] = v
	copy(out[i+1:], list[i:])
	return out
}

func without[T any](list []T, i int) []T {
	if len(list) == 1 {
		return nil
	}
	out := make([]T, len(list)-1)
	copy(out, list[:i])
	copy(out[i:], list[i+1:])
	return out
}
