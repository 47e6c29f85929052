package cli

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/core/election"
)

// LB-07: who holds what and why, for people and programs; the loss of a node played
// through moves its addresses only.
func TestAnnounce(t *testing.T) {
	since := time.Now().Add(-time.Hour)
	one, two := netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("192.0.2.201")
	report := l2.Report{
		Node: "a", Joined: true, Peers: []l2.ReportPeer{{Name: "b", Alive: true, Ready: true}, {Name: "c", SilentFor: 61_000}},
		Addresses: []l2.ReportAddress{
			{
				Address: one, Services: []string{"default/web"}, Holder: "a", Why: "node c was lost", Since: &since, Took: 280, Moves: 3, Links: []string{"eth0"},
				Candidates: []string{"a", "b"}, LeftOut: map[string]string{"c": "not heard from"}, Claims: []election.Claim{{Node: "a", Term: 3}},
			},
			{Address: two, Services: []string{"default/api"}, Holder: "b", Why: "claimed", Candidates: []string{"b"}, Claims: []election.Claim{{Node: "b", Term: 1}}},
		},
	}
	dir := t.TempDir()
	l, err := listenPrivately(filepath.Join(dir, announceSocket))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = json.NewEncoder(c).Encode(report)
			c.Close()
		}
	}()
	defer func() { l.Close(); <-served }()
	for _, c := range []struct {
		args []string
		want []string // of the output, or of the error
		not  string
	}{
		{nil, []string{"192.0.2.200   default/web   a        1h0m0s   280ms   3       b      node c was lost", "Node c is silent for 1m1s."}, "never heard"},
		{[]string{"--address", "192.0.2.200"}, []string{"no: not heard from"}, "192.0.2.201"},
		{[]string{"--address", "192.0.2.9"}, []string{"no Service with the address 192.0.2.9"}, ""},
		{[]string{"--address", "web"}, []string{`"web" is not an IP address`}, ""},
		{[]string{"--simulate-loss", "a"}, []string{"192.0.2.200   default/web   b"}, "192.0.2.201"},
		{[]string{"--simulate-loss", "b"}, []string{"192.0.2.201   default/api   nobody: no other node may hold it"}, "192.0.2.200"},
		{[]string{"--simulate-loss", "c"}, []string{"Node c holds no address"}, ""},
		{[]string{"--simulate-loss", "x"}, []string{`--simulate-loss "x" is no node`}, ""},
		{[]string{"-o", "json"}, []string{`"tookMs": 280`}, ""},
		{[]string{"-o", "yaml"}, []string{"choose one of table, json"}, ""},
		{[]string{"--data-dir", "/nonexistent"}, []string{"no agent that announces addresses"}, ""},
	} {
		cmd := newAnnounce()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs(append([]string{"--data-dir", dir}, c.args...))
		text := ""
		if err := cmd.Execute(); err != nil {
			text = err.Error()
		}
		text += out.String()
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%v: no %q in:\n%s", c.args, want, text)
			}
		}
		if c.not != "" && strings.Contains(text, c.not) {
			t.Errorf("%v: %q in:\n%s", c.args, c.not, text)
		}
	}
}
