package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/cli"
	"portico.dev/portico/test/guest"
	"portico.dev/portico/test/world"
)

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "portico":
		os.Exit(cli.Main(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "ask":
		if err := world.AskMain(context.Background(), os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// long says whether there is time for all of it.
func long() bool { return os.Getenv("PORTICO_LONG") != "" }

const namespace, nodePort = "e2e", 30000

// house is a node with two guests behind a Service.
type house struct {
	*testing.T
	*world.World
	ctx context.Context
}

func newHouse(t *testing.T) *house {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "nft", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s; `make deps` installs it", program)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	h := &house{T: t, ctx: ctx}
	cache, err := guest.CacheDir(ctx)
	h.must(err)
	image, err := guest.Build(ctx, guest.Options{Cache: cache, Logf: t.Logf})
	h.must(err)
	self, err := os.Executable()
	h.must(err)
	portico := filepath.Join(t.TempDir(), "portico")
	h.must(os.Symlink(self, portico))
	h.World, err = world.New("e2e", portico, self, t.Output())
	h.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			h.ShowLog()
		}
		if err := h.Remove(); err != nil { // `portico down` proves that nothing is left
			t.Error(err)
		}
	})
	_, err = h.Quiet(ctx, "image", "import", image.Archive, "--data-dir", h.Data())
	h.must(err)
	h.must(h.Start(ctx))
	h.apply(namespaceManifest)
	h.apply(service) // before the guests start, or they aren't told of it
	h.apply(machine("web-1", "Always", "web") + machine("web-2", "Always", "web"))
	h.ready("web-1", "web-2")
	return h
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// kubectl runs a command in the namespace of the tests; it has to succeed.
func (h *house) kubectl(args ...string) string {
	h.Helper()
	out, err := h.Quiet(h.ctx, append([]string{"kubectl", "-n", namespace}, args...)...)
	h.must(err)
	return out
}

func (h *house) apply(manifest string) {
	h.Helper()
	h.kubectl("apply", "-f", h.file(manifest))
}

// file puts a manifest where kubectl can read it.
func (h *house) file(manifest string) string {
	h.Helper()
	file := filepath.Join(h.TempDir(), "manifest.yaml")
	h.must(os.WriteFile(file, []byte(manifest), 0o600))
	return file
}

func (h *house) ready(names ...string) {
	h.Helper()
	args := []string{"wait", "--for=condition=Ready", "--timeout=60s"}
	for _, n := range names {
		args = append(args, "vm/"+n)
	}
	h.kubectl(args...)
}

// qemu is the process of a guest.
func (h *house) qemu(name string) int {
	h.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	h.must(err)
	for _, f := range files {
		raw, _ := os.ReadFile(f) // processes come and go
		if line := string(raw); strings.Contains(line, "guest="+namespace+"/"+name+"\x00") && strings.Contains(line, h.Data()+"/") {
			var pid int
			if _, err := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err == nil {
				return pid
			}
		}
	}
	h.Fatalf("guest %s has no QEMU process", name)
	return 0
}

// onNode runs a program in the node's namespace.
func (h *house) onNode(args ...string) {
	h.Helper()
	if out, err := h.In(h.ctx, h.Node, args...).CombinedOutput(); err != nil {
		h.Fatalf("%v: %v: %s", args, err, out)
	}
}

// during makes requests from a client outside, by both families, while f works; none
// may fail.
func (h *house) during(f func()) {
	h.Helper()
	var ends []func() (world.Tally, error)
	for _, host := range []string{world.NodeIPv4, "[" + world.NodeIPv6 + "]"} {
		end, err := h.Loop(h.ctx, h.Client, fmt.Sprintf("http://%s:%d/", host, nodePort))
		h.must(err)
		ends = append(ends, end)
	}
	f()
	for _, end := range ends {
		t, err := end()
		h.must(err)
		h.Logf("meanwhile: %v, %d failed", t.Answers, t.Failures)
		if t.Failures > 0 || len(t.Answers) == 0 {
			h.Errorf("answers %v, %d failed: %s", t.Answers, t.Failures, strings.Join(t.Errors, "; "))
		}
	}
}
