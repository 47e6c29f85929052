package nodes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portico.dev/portico/test/guest"
)

// A drained node is empty but for what would lose its disk, each guest's fate is told,
// and a node that leaves takes nobody with it.
func TestDrain(t *testing.T) {
	l := newLAN(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cache, err := guest.CacheDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	image, err := guest.Build(ctx, guest.Options{Cache: cache, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	a, b := l.host(t, "a"), l.host(t, "b")
	for _, h := range []*host{a, b} {
		h.must("image", "import", image.Archive, "--data-dir", h.dir)
	}
	a.start("up", "--node-name", "a", "--advertise-address", a.ipv4.String())
	a.untilReady("a")
	b.start(append(a.joinArgs(), "--node-name", "b")...)
	a.untilReady("a", "b")

	a.must("node", "cordon", "a")
	a.apply(machine("roams", "", "") +
		machine("bound", "nodeSelector: {kubernetes.io/hostname: b}", "") +
		machine("local", "", "hostDisk: {path: "+filepath.Join(b.dir, "disk.img")+", type: DiskOrCreate, capacity: 1Mi}"))
	a.untilOn("Running", map[string]string{"roams": "b", "bound": "b", "local": "b"})
	a.must("node", "uncordon", "a")

	out, err := a.run("node", "drain", "b", "--grace", "1s")
	for _, want := range []string{"Cordoned     node b\n", "Left         guest default/local: its disk ", "Moved        guest default/roams to a\n", "Waiting      guest default/bound: 0/2 nodes are available"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("drain: %v, it doesn't say %q:\n%s", err, want, out)
		}
	}
	a.untilOn("Running", map[string]string{"roams": "a", "bound": "", "local": "b"})
	if out, err := b.run("leave", "--data-dir", b.dir, "--grace", "1s"); err == nil || !strings.Contains(out, "is cordoned, but not empty: guest default/local") {
		t.Errorf("leave with a guest that would lose its disk: %v\n%s", err, out)
	}
	a.untilReady("a", "b") // nothing else was done
	a.must("vm", "stop", "local")
	a.untilOn("Running", map[string]string{"roams": "a", "bound": ""})
	if out := a.must("node", "drain", "b"); !strings.Contains(out, "Empty        node b") {
		t.Errorf("an empty node's drain says:\n%s", out)
	}
	a.must("node", "uncordon", "b")
	a.untilOn("Running", map[string]string{"roams": "a", "bound": "b"})

	if out := b.must("leave", "--data-dir", b.dir, "--grace", "1s"); !strings.Contains(out, "Waiting      guest default/bound") {
		t.Errorf("leave says:\n%s", out)
	}
	a.untilReady("a")
	a.untilOn("Running", map[string]string{"roams": "a", "bound": ""})
	a.must("kubectl", "delete", "vm", "--all", "--timeout=60s")
}

func (h *host) apply(manifest string) {
	h.Helper()
	file := filepath.Join(h.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		h.Fatal(err)
	}
	h.must("kubectl", "apply", "-f", file)
}

// untilOn waits until the pods of guests are on the nodes that are given, in a phase, and
// there are no others; "" is a pod that waits for a node.
func (h *host) untilOn(phase string, want map[string]string) {
	h.Helper()
	h.until(fmt.Sprintf("guests are on %v", want), func() error {
		out, err := h.run("kubectl", "get", "pods", "-o",
			`jsonpath={range .items[*]}{.metadata.labels.vm\.kubevirt\.io/name} {.status.phase} {.spec.nodeName}{"\n"}{end}`)
		if err != nil {
			return err
		}
		is := map[string]string{}
		for line := range strings.Lines(out) {
			words := strings.Split(strings.TrimRight(line, "\n"), " ")
			if len(words) == 2 { // trimmed at the end of the output
				words = append(words, "")
			}
			if len(words) != 3 || words[2] != "" && words[1] != phase {
				return fmt.Errorf("it is %q", line)
			}
			is[words[0]] = words[2]
		}
		if fmt.Sprint(is) != fmt.Sprint(want) {
			return fmt.Errorf("they are on %v", is)
		}
		return nil
	})
}

func machine(name, selector, disk string) string {
	devices, volumes := "{}", "[]"
	if disk != "" {
		devices, volumes = "{disks: [{name: data, disk: {bus: virtio}}]}", "[{name: data, "+disk+"}]"
	}
	return strings.NewReplacer("NAME", name, "SELECTOR", selector, "DEVICES", devices, "VOLUMES", volumes).Replace(`
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: NAME, namespace: default}
spec:
  runStrategy: Always
  template:
    spec:
      SELECTOR
      terminationGracePeriodSeconds: 1
      domain:
        memory: {guest: 64Mi}
        firmware:
          kernelBoot:
            container: {image: "portico.local/guest:latest", kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
        devices: DEVICES
      volumes: VOLUMES
---
`)
}
