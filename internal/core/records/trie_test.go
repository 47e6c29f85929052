package records

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
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
		want map[int]Node
	}
	now := newTrie()
	want := map[int]Node{}
	var versions []version
	for n := range 60 {
		e := new(edit)
		for range 50 {
			i := r.IntN(names)
			key := string(testName(t, i))
			if r.IntN(3) == 0 {
				now.remove(e, key)
				delete(want, i)
				continue
			}
			want[i] = Node(fmt.Sprint(n))
			now.set(e, key, want[i])
		}
		versions = append(versions, version{now, maps.Clone(want)})
	}
	for n, v := range versions {
		if v.trie.size != len(v.want) {
			t.Errorf("version %d: size %d, want %d", n, v.trie.size, len(v.want))
		}
		for i := range names {
			got, found := v.trie.find([]byte(testName(t, i)))
			if want, there := v.want[i]; got != want || found != there {
				t.Fatalf("version %d: name %d is %q, %v, want %q, %v", n, i, got, found, want, there)
			}
		}
	}
}

// TestTrieCollisions forces keys with equal hashes, which real ones never have.
func TestTrieCollisions(t *testing.T) {
	root := &branch{owner: new(edit)}
	hash := func(key string) uint64 {
		if key == "c" {
			return 7 | 1<<63
		}
		return 7
	}
	for _, key := range []string{"a", "b", "c"} {
		if !root.set(root.owner, newLeaf(key, Node(key)), hash, 0) {
			t.Errorf("%s was there already", key)
		}
	}
	if root.set(root.owner, newLeaf("a", "x"), hash, 0) {
		t.Error("a wasn't there")
	}
	var walk func(b *branch) []string
	walk = func(b *branch) (found []string) {
		for _, l := range b.leaves {
			found = append(found, l.key()+"="+string(l.node()))
		}
		for _, c := range b.children {
			found = append(found, walk(c)...)
		}
		slices.Sort(found)
		return found
	}
	if got := fmt.Sprint(walk(root)); got != "[a=x b=b c=c]" {
		t.Fatalf("found %s", got)
	}
	root.remove(root.owner, "b", 7, 0)
	root.remove(root.owner, "a", 7, 0)
	if got := fmt.Sprint(walk(root)); got != "[c=c]" {
		t.Fatalf("after removal: %s", got)
	}
}
