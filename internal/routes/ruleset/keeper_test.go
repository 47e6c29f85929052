package ruleset_test

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/routes/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func there() bool { return exec.Command("nft", "list", "table", "inet", "kept").Run() == nil }

// NET-02: a keeper finds what happened while it didn't listen, and doesn't look at what
// the one writer does that it was told to ignore.
func TestKeeperUnheard(t *testing.T) {
	nstest.Need(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	k, err := ruleset.Keep(ruleset.Table{Name: "kept", Chains: []ruleset.Chain{{Name: "one", Rules: []ruleset.Rule{{ruleset.Return()}}}}}, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	remove := func() error { return exec.Command("nft", "delete", "table", "inet", "kept").Run() }
	failed := errors.New("the change failed")
	if err := k.Unheard(func() error { return errors.Join(remove(), failed) }); !errors.Is(err, failed) {
		t.Errorf("the change's error became %v", err)
	}
	if !there() {
		t.Error("the table isn't back after the change")
	}

	// A writer with a port that the test knows.
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseLasting() //nolint:errcheck // the test's own
	if err := k.Ignore(portOf(t, conn)); err != nil {
		t.Fatal(err)
	}
	conn.DelTable(&nftables.Table{Name: "kept", Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if there() {
		t.Error("the ignored writer's deletion was undone")
	}
	// Another's change of the table is news again, and all is back.
	for _, args := range [][]string{{"add", "table", "inet", "kept"}, {"delete", "table", "inet", "kept"}} {
		if out, err := exec.Command("nft", args...).CombinedOutput(); err != nil {
			t.Logf("nft %v: %v: %s", args, err, out) // the keeper may have been faster
		}
	}
	nstest.Eventually(t, 10*time.Second, "the table is back", there)
}

// NET-02: what happens between Keep and Run is mended, too.
func TestKeeperBeforeRun(t *testing.T) {
	nstest.Need(t)
	k, err := ruleset.Keep(ruleset.Table{Name: "kept", Chains: []ruleset.Chain{{Name: "one", Rules: []ruleset.Rule{{ruleset.Return()}}}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nft", "delete", "table", "inet", "kept").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	nstest.Eventually(t, 10*time.Second, "the table is back", there)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// portOf finds the netlink port of a connection by a notice of what it writes.
func portOf(t *testing.T, conn *nftables.Conn) uint32 {
	t.Helper()
	listener, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn.AddTable(&nftables.Table{Name: "probe", Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	messages, err := listener.Receive()
	if err != nil || len(messages) == 0 {
		t.Fatalf("no notice: %v", err)
	}
	return messages[0].Header.PID
}
