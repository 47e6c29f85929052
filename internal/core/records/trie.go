package records

import (
	"hash/maphash"
	"math/bits"
	"slices"
)

// trie is a persistent hash trie from names to nodes: 32-way branches that hold
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
)

// edit stands for one batch of changes: branches made in it are nobody else's
// yet and are changed in place.
type edit struct{ _ byte }

type branch struct {
	bitmap uint32
	owner  *edit
	slots  []slot
}

// slot holds a branch or a leaf.
type slot struct {
	child *branch
	leaf  *leaf
}

// leaf is one name. Names whose whole hashes are equal are chained.
type leaf struct {
	hash uint64
	name Name
	node *Node
	next *leaf
}

func newTrie() trie { return trie{seed: maphash.MakeSeed(), root: &branch{}} }

func (b *branch) at(hash uint64, shift uint) (bit uint32, index int) {
	bit = 1 << (hash >> shift & fanMask)
	return bit, bits.OnesCount32(b.bitmap & (bit - 1))
}

// find gives the node of a name, nil when there is none.
func (t *trie) find(name []byte) *Node {
	hash := maphash.Bytes(t.seed, name)
	b := t.root
	for shift := uint(0); ; shift += fanBits {
		bit, i := b.at(hash, shift)
		if b.bitmap&bit == 0 {
			return nil
		}
		s := &b.slots[i]
		if s.child != nil {
			b = s.child
			continue
		}
		for l := s.leaf; l != nil; l = l.next {
			if l.hash == hash && string(l.name) == string(name) {
				return l.node
			}
		}
		return nil
	}
}

// set stores a node; the tries that were copied from t before keep theirs.
func (t *trie) set(e *edit, name Name, node *Node) {
	l := &leaf{hash: maphash.String(t.seed, string(name)), name: name, node: node}
	t.root = t.root.own(e)
	if t.root.set(e, l, 0) {
		t.size++
	}
}

// remove takes a name out, if it is there.
func (t *trie) remove(e *edit, name Name) {
	hash := maphash.String(t.seed, string(name))
	if t.find([]byte(name)) == nil {
		return
	}
	t.root = t.root.own(e)
	t.root.remove(e, hash, name, 0)
	t.size--
}

// own gives b itself when it was made in this batch, else a copy that was.
func (b *branch) own(e *edit) *branch {
	if b.owner == e && e != nil {
		return b
	}
	return &branch{bitmap: b.bitmap, owner: e, slots: append(make([]slot, 0, len(b.slots)+1), b.slots...)}
}

// set reports whether the name is new. b is the batch's own.
func (b *branch) set(e *edit, l *leaf, shift uint) bool {
	bit, i := b.at(l.hash, shift)
	if b.bitmap&bit == 0 {
		b.bitmap |= bit
		b.slots = slices.Insert(b.slots, i, slot{leaf: l})
		return true
	}
	s := &b.slots[i]
	if s.child != nil {
		s.child = s.child.own(e)
		return s.child.set(e, l, shift+fanBits)
	}
	if s.leaf.hash == l.hash {
		rest, found := s.leaf.without(l.name)
		l.next = rest
		s.leaf = l
		return !found
	}
	// Two hashes meet here: they part somewhere below, since they differ and
	// each level takes five more of their bits.
	child := &branch{owner: e}
	old := s.leaf
	oldBit, _ := child.at(old.hash, shift+fanBits)
	child.bitmap, child.slots = oldBit, []slot{{leaf: old}}
	*s = slot{child: child}
	return child.set(e, l, shift+fanBits)
}

// remove takes out a name that is there and reports whether b is empty now.
func (b *branch) remove(e *edit, hash uint64, name Name, shift uint) bool {
	bit, i := b.at(hash, shift)
	s := &b.slots[i]
	if s.child != nil {
		s.child = s.child.own(e)
		if !s.child.remove(e, hash, name, shift+fanBits) {
			return false
		}
	} else if rest, _ := s.leaf.without(name); rest != nil {
		s.leaf = rest
		return false
	}
	b.bitmap &^= bit
	b.slots = slices.Delete(b.slots, i, i+1)
	return len(b.slots) == 0
}

// without gives the chain without a name, copying what stands before it.
func (l *leaf) without(name Name) (*leaf, bool) {
	if l == nil {
		return nil, false
	}
	if l.name == name {
		return l.next, true
	}
	rest, found := l.next.without(name)
	if !found {
		return l, false
	}
	return &leaf{hash: l.hash, name: l.name, node: l.node, next: rest}, true
}
