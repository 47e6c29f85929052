package nodes

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
