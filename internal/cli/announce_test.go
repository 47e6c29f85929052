package cli

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/announce/bgp"
	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/election"
)

// LB-07: who holds what and why, for people and programs; the loss of a node played
// through moves its addresses only.
func TestAnnounce(t *testing.T) {
	since := time.Now().Add(-time.Hour)
	one, two := netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("192.0.2.201")
	report := layer2Answer{Problems: []string{"L2Advertisement lan: spec.ipAddressPools[0]: there is no IPAddressPool lan"}, Report: l2.Report{
		Node: "a", Joined: true, Peers: []l2.ReportPeer{{Name: "b", Alive: true, Ready: true}, {Name: "c", SilentFor: 61_000}},
		Addresses: []l2.ReportAddress{
			{
				Address: one, Services: []string{"default/web"}, Holder: "a", Why: "node c was lost", Since: &since, Took: 280, Moves: 3, Links: []string{"eth0"},
				Candidates: []string{"a", "b"}, LeftOut: map[string]string{"c": "not heard from"}, Claims: []election.Claim{{Node: "a", Term: 3}},
			},
			{Address: two, Services: []string{"default/api"}, Holder: "b", Why: "claimed", Candidates: []string{"b"}, Claims: []election.Claim{{Node: "b", Term: 1}}},
		},
	}}
	dir := t.TempDir()
	left := 0
	serve(t, filepath.Join(dir, announceSocket), map[string]answer{
		askLayer2: func(context.Context) any { return report },
		askBGP: func(context.Context) any {
			return bgp.State{Problems: []string{"BGPPeer router: spec.peerAddress: is missing"}}
		},
		askLeave: func(context.Context) any {
			left++
			return leaveAnswer{strings.Repeat("no router can be told", left-1)}
		},
	})
	for _, c := range []struct {
		args []string
		want []string // of the output, or of the error
		not  string
	}{
		{nil, []string{"192.0.2.200   default/web   a        1h0m", "280ms   3       b      node c was lost", "Node c is silent for 1m1s.", "\n\nL2Advertisement lan: spec.ipAddressPools[0]: there is no IPAddressPool lan\n"}, "never heard"},
		{[]string{"--address", "192.0.2.200"}, []string{"no: not heard from"}, "192.0.2.201"},
		{[]string{"--address", "192.0.2.9"}, []string{"no Service with the address 192.0.2.9"}, ""},
		{[]string{"--address", "web"}, []string{`"web" is not an IP address`}, ""},
		{[]string{"--simulate-loss", "a"}, []string{"192.0.2.200   default/web   b"}, "192.0.2.201"},
		{[]string{"--simulate-loss", "b"}, []string{"192.0.2.201   default/api   nobody: no other node may hold it"}, "192.0.2.200"},
		{[]string{"--simulate-loss", "c"}, []string{"Node c holds no address"}, ""},
		{[]string{"--simulate-loss", "x"}, []string{`--simulate-loss "x" is no node`}, ""},
		{[]string{"-o", "json"}, []string{`"tookMs": 280`, `"problems": [`}, ""},
		{[]string{"--bgp"}, []string{"This node has no BGP session", "BGPPeer router: spec.peerAddress: is missing"}, ""},
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
	// What `portico leave` asks for, of an agent that announces and of one that doesn't.
	for _, c := range []struct{ dir, want string }{{dir, ""}, {dir, "no router can be told"}, {t.TempDir(), ""}} {
		if err := leaveAnnouncements(c.dir); messageOf(err) != c.want {
			t.Errorf("leaving gives %v, not %q", err, c.want)
		}
	}
	if left != 2 {
		t.Errorf("the agent was asked %d times to leave", left)
	}
}

// serve answers on a socket until the test ends; it is open when serve returns.
func serve(t *testing.T, path string, answers map[string]answer) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serveAnswers(ctx, path, slog.New(slog.DiscardHandler), answers); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	apitest.Eventually(t, "the socket is open", func() error {
		_, err := os.Stat(path)
		return err
	})
}
