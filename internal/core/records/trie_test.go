package records

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func testName(t testing.TB, i int) Name {
	n, err := ParseName(fmt.Sprintf("name-%d.svc.cluster.local", i))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTrieAgainstMap makes random changes in batches and compares every version,
// also the old ones, with a plain map.
func TestTrieAgainstMap(t *testing.T) {
	const names = 400
	r := rand.New(rand.NewPCG(1, 2))
	type version struct {
		trie trie
		want map[int]*Node
	}
	now := newTrie()
	want := map[int]*Node{}
	var versions []version
	for range 60 {
		e := new(edit)
		for range 50 {
			i := r.IntN(names)
			if r.IntN(3) == 0 {
				now.remove(e, testName(t, i))
				delete(want, i)
				continue
			}
			node := &Node{}
			now.set(e, testName(t, i), node)
			want[i] = node
		}
		kept := map[int]*Node{}
		for k, v := range want {
			kept[k] = v
		}
		versions = append(versions, version{now, kept})
	}
	for n, v := range versions {
		if v.trie.size != len(v.want) {
			t.Errorf("version %d: size %d, want %d", n, v.trie.size, len(v.want))
		}
		for i := range names {
			if got := v.trie.find([]byte(testName(t, i))); got != v.want[i] {
				t.Fatalf("version %d: name %d is %p, want %p", n, i, got, v.want[i])
			}
		}
	}
}

// TestTrieCollisions forces names with equal hashes, which real ones never have.
func TestTrieCollisions(t *testing.T) {
	root := &branch{owner: new(edit)}
	e := root.owner
	a, b, c := &Node{}, &Node{}, &Node{}
	root.set(e, &leaf{hash: 7, name: "a", node: a}, 0)
	root.set(e, &leaf{hash: 7, name: "b", node: b}, 0)
	root.set(e, &leaf{hash: 7 | 1<<63, name: "c", node: c}, 0)
	if root.set(e, &leaf{hash: 7, name: "a", node: c}, 0) {
		t.Error("a was there already")
	}
	var found []Name
	var walk func(b *branch)
	walk = func(b *branch) {
		for _, s := range b.slots {
			if s.child != nil {
				walk(s.child)
			}
			for l := s.leaf; l != nil; l = l.next {
				found = append(found, l.name)
			}
		}
	}
	walk(root)
	if len(found) != 3 {
		t.Fatalf("found %q", found)
	}
	root.remove(e, 7, "b", 0)
	root.remove(e, 7, "a", 0)
	found = nil
	walk(root)
	if len(found) != 1 || found[0] != "c" {
		t.Fatalf("after removal: %q", found)
	}
}
