package l2

import (
	"testing"

	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/core/announcing"
)

// LB-03: a node that has just started waits for all that there are, also for those that
// can't be greeted yet, so that two don't elect themselves.
func TestMissing(t *testing.T) {
	heard := greet.News{Alive: true, Word: greet.Word{Ready: true}}
	for name, c := range map[string]struct {
		nodes   []string
		peers   map[string]greet.News
		missing bool
	}{
		"alone":                 {[]string{"a"}, nil, false},
		"all heard":             {[]string{"a", "b"}, map[string]greet.News{"b": heard}, false},
		"without an address":    {[]string{"a", "b"}, nil, true},
		"one of two":            {[]string{"a", "b", "c"}, map[string]greet.News{"b": heard}, true},
		"silent":                {[]string{"a", "b"}, map[string]greet.News{"b": {Word: greet.Word{Ready: true}}}, true},
		"heard, and not ready":  {[]string{"a", "b"}, map[string]greet.News{"b": {Alive: true}}, true},
		"known before the list": {[]string{"a"}, map[string]greet.News{"gone": {}}, false},
	} {
		in := &announcing.Input{Self: "a"}
		for _, n := range c.nodes {
			in.Nodes = append(in.Nodes, announcing.Node{Name: n})
		}
		if got := missing(in, &greet.View{Peers: c.peers}); got != c.missing {
			t.Errorf("%s: %v, want %v", name, got, c.missing)
		}
	}
}
