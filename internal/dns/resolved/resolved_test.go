package resolved

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// bus starts a bus of its own and gives its address.
func bus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon isn't installed")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	err = os.WriteFile(config, []byte(fmt.Sprintf(`<busconfig><type>session</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`, dir)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the bus didn't start: %v", err)
	}
	return strings.TrimSpace(address)
}

// fake is the part of resolved that is called. It notes the calls.
type fake struct {
	conn  *dbus.Conn
	calls chan string
}

func startFake(t *testing.T, address string) *fake {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{conn, make(chan string, 100)}
	table := map[string]any{
		"SetLinkDefaultRoute": func(link int32, v bool) *dbus.Error { return f.note("SetLinkDefaultRoute", link, v) },
		"SetLinkLLMNR":        func(link int32, v string) *dbus.Error { return f.note("SetLinkLLMNR", link, v) },
		"SetLinkMulticastDNS": func(link int32, v string) *dbus.Error { return f.note("SetLinkMulticastDNS", link, v) },
		"SetLinkDNSSEC":       func(link int32, v string) *dbus.Error { return f.note("SetLinkDNSSEC", link, v) },
		"SetLinkDNS":          func(link int32, v []server) *dbus.Error { return f.note("SetLinkDNS", link, v) },
		"SetLinkDomains":      func(link int32, v []domain) *dbus.Error { return f.note("SetLinkDomains", link, v) },
		"RevertLink":          func(link int32) *dbus.Error { return f.note("RevertLink", link, "") },
	}
	if err := conn.ExportMethodTable(table, path, strings.TrimSuffix(manager, ".")); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("take the name: %v, %v", reply, err)
	}
	return f
}

func (f *fake) note(method string, link int32, v any) *dbus.Error {
	f.calls <- strings.TrimSpace(fmt.Sprintf("%s %d %v", method, link, v))
	return nil
}

// next gives the calls up to the one that begins so.
func (f *fake) next(t *testing.T, last string) (out []string) {
	t.Helper()
	for {
		select {
		case c := <-f.calls:
			out = append(out, c)
			if strings.HasPrefix(c, last) {
				return out
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no call of %s; there were %q", last, out)
		}
	}
}

// TestKeep: resolved learns the link's servers and domain, learns them again when it was
// started again, and forgets them at the end.
func TestKeep(t *testing.T) {
	address := bus(t)
	first := startFake(t, address)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Keep(ctx, Link{
			Index: 7, Domains: []string{"cluster.local", "244.10.in-addr.arpa"}, Bus: address, Log: slog.New(slog.DiscardHandler),
			Servers: []netip.Addr{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00::1")},
		})
	}()
	want := []string{
		"SetLinkDefaultRoute 7 false", "SetLinkLLMNR 7 no", "SetLinkMulticastDNS 7 no", "SetLinkDNSSEC 7 no",
		"SetLinkDNS 7 [{2 [10 244 0 1]} {10 [253 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1]}]", "SetLinkDomains 7 [{cluster.local true} {244.10.in-addr.arpa true}]",
	}
	if got := first.next(t, "SetLinkDomains"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	first.conn.Close()
	second := startFake(t, address)
	defer second.conn.Close()
	if got := second.next(t, "SetLinkDomains"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("after a restart: calls %q, want %q", got, want)
	}
	cancel()
	if got := second.next(t, "RevertLink"); got[0] != "RevertLink 7" {
		t.Errorf("at the end: %q", got)
	}
	ended(t, done)
}

// TestNobody: without a resolved nobody is called, and the end comes at once.
func TestNobody(t *testing.T) {
	for _, address := range []string{bus(t), "unix:path=" + filepath.Join(t.TempDir(), "none")} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Keep(ctx, Link{Index: 7, Bus: address, Log: slog.New(slog.DiscardHandler)}) }()
		cancel()
		ended(t, done)
	}
}

func ended(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
}
