package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"portico.dev/portico/internal/cli"
	"portico.dev/portico/test/guest"
)

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "portico":
		os.Exit(cli.Main(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "ask":
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The manual's procedure, from `kubectl create -f` to answered requests, with real
// guests and real packets. API-01, API-10, API-13, DP-01, DP-02, DP-04, DP-05, DP-11,
// DNS-01, EP-01, VM-01, VM-02, VM-05, VM-07, NET-02.
func TestDemo(t *testing.T) {
	need(t, "qemu-system-x86_64", "qemu-img")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cache, err := guest.CacheDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	image, err := guest.Build(ctx, guest.Options{Cache: cache, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	o := options{portico: linked(t), guest: image.Archive, examples: "../../examples"}
	if err := demo(ctx, o, t.Output()); err != nil {
		t.Fatal(err)
	}
}

// The variant with a load balancer, with servers in place of guests: manifests, an
// address of each family, and a node that is lost while clients send. LB-01, LB-02, LB-03,
// LB-05.
func TestDemoLoadBalancer(t *testing.T) {
	need(t)
	ctx, cancel := context.WithTimeout(t.Context(), lbLimit+2*time.Minute) // the demo itself keeps to lbLimit
	defer cancel()
	if err := demo(ctx, options{portico: linked(t), examples: "../../examples", lb: true}, t.Output()); err != nil {
		t.Fatal(err)
	}
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, program := range append(programs, "nft", "ip", "nsenter", "pgrep") {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s; `make deps` installs it", program)
		}
	}
}

// linked is this program under the name by which it is portico.
func linked(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	portico := filepath.Join(t.TempDir(), "portico")
	if err := os.Symlink(self, portico); err != nil {
		t.Fatal(err)
	}
	return portico
}
