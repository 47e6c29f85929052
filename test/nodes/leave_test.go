package nodes

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// A host leaves also when its agent is dead, and by --force when the API is: then it
// cleans itself and says what is left to do there.
func TestLeaveWithoutAgentOrServer(t *testing.T) {
	l := newLAN(t)
	a, b := l.host(t, "a"), l.host(t, "b")
	a.start("up", "--node-name", "a", "--advertise-address", a.ipv4.String())
	a.untilReady("a")
	join := append(a.joinArgs(), "--node-name", "b")

	b.start(join...)
	a.untilReady("a", "b")
	b.signal(syscall.SIGKILL)
	says(t, b.must("leave", "--data-dir", b.dir), "Deleted      node b", "This host is no node of", "Checked: ")
	b.forgotten()
	a.untilReady("a")

	b.start(append(a.joinArgs(), "--node-name", "c")...) // "b" was given away a moment ago
	a.untilReady("a", "c")
	a.signal(syscall.SIGKILL)
	if out, err := b.run("leave", "--data-dir", b.dir); err == nil || !strings.Contains(out, "can't be asked to let node c go") || !strings.Contains(out, "--force") {
		t.Errorf("without the server: %v\n%s", err, out)
	}
	select {
	case <-b.ended:
		t.Error("a refused leave stopped the agent")
	default:
	}
	says(t, b.must("leave", "--data-dir", b.dir, "--force"), "Unreachable", "kubectl delete node c", "Stopped      agent", "Checked: ")
	<-b.ended
	b.forgotten()
}

func says(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("it doesn't say %q:\n%s", w, out)
		}
	}
}

// forgotten checks that no file of the host's identity is left.
func (h *host) forgotten() {
	h.Helper()
	for _, name := range []string{"identity", "kubeconfig"} {
		if _, err := os.Stat(filepath.Join(h.dir, name)); !os.IsNotExist(err) {
			h.Errorf("host %s still has %s: %v", h.Name, name, err)
		}
	}
}

// LB-03, LB-07: all that a node was to others goes when it leaves: its address is handed
// over, its objects, routes and tunnel end, and agents no longer greet it.
func TestNothingIsLeftOfANode(t *testing.T) {
	l := newLAN(t)
	a, b := l.host(t, "a"), l.host(t, "b")
	a.start("up", "--node-name", "a", "--vm", "off", "--advertise-address", a.ipv4.String())
	a.untilReady("a")
	b.start(append(a.joinArgs(), "--node-name", "b", "--vm", "off")...)
	a.untilReady("a", "b")
	a.until("pools are served", func() error {
		_, err := a.run("kubectl", "get", "ipaddresspools", "-n", "metallb-system")
		return err
	})
	const vip = "192.0.2.200"
	a.apply(strings.ReplaceAll(`
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [VIP/32]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: lan, namespace: metallb-system}
spec:
  nodeSelectors: [{matchLabels: {kubernetes.io/hostname: b}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
`, "VIP", vip))
	a.untilAnnounced(vip, "b", "")
	// Who has it keeps it, and a may have it now.
	a.must("kubectl", "patch", "l2advertisement", "lan", "-n", "metallb-system", "--type=merge", "-p", `{"spec":{"nodeSelectors":[]}}`)
	pods := a.must("kubectl", "get", "node", "b", "-o", "jsonpath={.spec.podCIDRs[0]}")
	a.until("a has a way to b", func() error { return a.hasRoute(pods) })
	a.until("b's status is there", func() error { return a.has("-n", "metallb-system", "servicel2statuses", "-l", "metallb.io/node=b") })

	says(t, b.must("leave", "--data-dir", b.dir), "Deleted      node b", "This host is no node of", "Checked: ")
	<-b.ended
	b.forgotten()
	a.untilReady("a")
	a.untilAnnounced(vip, "a", "node b gave it up")
	for _, what := range [][]string{
		{"-n", "kube-node-lease", "leases", "--field-selector", "metadata.name=b"},
		{"-n", "metallb-system", "servicel2statuses", "-l", "metallb.io/node=b"},
		{"-n", "metallb-system", "configurationstates", "-l", "metallb.io/node-name=b"},
	} {
		a.until(strings.Join(what, " ")+" is gone", func() error {
			if a.has(what...) == nil {
				return errors.New("it is there")
			}
			return nil
		})
	}
	a.until("a's way to b is gone", func() error {
		if a.hasRoute(pods) == nil {
			return errors.New("it is there")
		}
		return nil
	})
	a.until("a greets b no longer", func() error {
		out, err := a.run("announce", "-o", "json", "--data-dir", a.dir)
		if err == nil && strings.Contains(out, `"name": "b"`) {
			err = errors.New(out)
		}
		return err
	})
	if link, err := b.Links.LinkByName("portico0-vxlan"); err == nil {
		t.Errorf("b still has the tunnel %+v", link.Attrs())
	}
}

// untilAnnounced waits until an address is at a node, and why.
func (h *host) untilAnnounced(addr, node, why string) {
	h.Helper()
	h.until(addr+" is announced by "+node, func() error {
		out, err := h.run("announce", "-o", "json", "--data-dir", h.dir)
		if err != nil {
			return err
		}
		var report struct {
			Addresses []struct{ Address, Holder, Why string }
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for _, a := range report.Addresses {
			if a.Address == addr && a.Holder == node && strings.Contains(a.Why, why) {
				return nil
			}
		}
		return fmt.Errorf("%s", out)
	})
}

// has tells that there are such objects.
func (h *host) has(what ...string) error {
	out, err := h.run(append([]string{"kubectl", "get", "-o", "name"}, what...)...)
	if err == nil && out == "" {
		err = errors.New("there is none")
	}
	return err
}

// hasRoute tells that the host has a route to a range.
func (h *host) hasRoute(to string) error {
	routes, err := h.Links.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() == to {
			return nil
		}
	}
	return fmt.Errorf("there is none to %s among %v", to, routes)
}
