package nodes

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/internal/apiserver/certs"
)

// joinArgs are those of the command that `portico token create` prints.
func (h *host) joinArgs(flags ...string) []string {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	raw, err := h.command(ctx, append([]string{"token", "create"}, flags...)...).Output() // notes for people are on stderr
	if err != nil {
		h.Fatal(err)
	}
	line := strings.TrimSpace(string(raw))
	words := strings.Fields(line)
	token, ok := strings.CutPrefix(words[0], "PORTICO_TOKEN=")
	if !ok || strings.Contains(line, "\n") || len(words) != 6 || words[1] != "portico" {
		h.Fatalf("`portico token create` printed %q, which isn't one command", line)
	}
	return []string{"join", words[3], "--token", token, words[4], words[5]}
}

// refused runs a command that must fail with one line that says so.
func (h *host) refused(want string, args ...string) {
	h.Helper()
	out, err := h.run(append(args, "--data-dir", h.dir)...)
	var said []string
	for line := range strings.Lines(out) {
		if line, ok := strings.CutPrefix(line, "portico: "); ok {
			said = append(said, strings.TrimSpace(line))
		}
	}
	if err == nil || len(said) != 1 || !strings.Contains(said[0], want) {
		h.Errorf("%v: %v, said %q, want one line with %q; all of it:\n%s", args, err, said, want, out)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "identity")); !os.IsNotExist(err) {
		h.Errorf("%v: it left an identity: %v", args, err)
	}
}

// OPS-05: a host joins by a token, goes on without one, and leaves. Wrong hosts get one clear
// message, and nothing of theirs changes.
func TestJoinAndLeave(t *testing.T) {
	l := newLAN(t)
	a, b := l.host(t, "a"), l.host(t, "b")
	a.start("up", "--node-name", "a", "--advertise-address", a.ipv4.String()+","+a.ipv6.String(), "--cluster-domain", "example.test",
		"--cluster-cidr", "10.240.0.0/16,fd00:10:240::/56")
	a.untilReady("a")

	join := a.joinArgs()
	if want := "https://" + a.ipv4.String() + ":6443"; join[1] != want {
		t.Errorf("the command joins %s, want %s", join[1], want)
	}
	wrong := func(flag, value string) []string {
		args := append([]string{}, join...)
		for i := range args {
			if args[i] == flag {
				args[i+1] = value
			}
		}
		return append(args, "--node-name", "b")
	}
	b.refused("isn't the one that the hash", wrong("--ca-cert-hash", "sha256:"+strings.Repeat("0", 64))...)
	b.refused("doesn't accept the token", wrong("--token", "aaaaaa.0123456789abcdef")...)
	b.refused(`"a" is used by another host, which is alive`, append(join, "--node-name", "a")...)
	b.refused(`"kubernetes" is a name of the API server`, append(join, "--node-name", "kubernetes")...)
	a.must("kubectl", "-n", "kube-system", "create", "secret", "generic", "bootstrap-token-zzzzzz", "--type=bootstrap.kubernetes.io/token",
		"--from-literal=token-id=zzzzzz", "--from-literal=token-secret=0123456789abcdef", "--from-literal=usage-bootstrap-authentication=true",
		"--from-literal=auth-extra-groups=system:bootstrappers:portico:nodes", "--from-literal=expiration=2026-01-01T00:00:00Z")
	b.refused("its time is over", wrong("--token", "zzzzzz.0123456789abcdef")...)

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(join[3]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start("join", join[1], "--token-file", file, join[4], join[5], "--node-name", "b") // nobody sees the token
	a.untilReady("a", "b")
	a.untilDoorOpens(b)
	if got := b.must("kubectl", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); got != "system:node:b" {
		t.Errorf("on b people are %s", got)
	}
	record, err := os.ReadFile(filepath.Join(b.dir, "run.json"))
	if err != nil || !strings.Contains(string(record), "10.240.0.0/16") {
		t.Errorf("b runs with %s, %v: the ranges must be the cluster's", record, err)
	}

	// It was killed, and the token is gone.
	b.signal(syscall.SIGKILL)
	a.must("token", "delete", strings.SplitN(join[3], ".", 2)[0])
	if out := a.must("token", "list"); strings.Contains(out, join[3][:6]) {
		t.Errorf("the token is still there:\n%s", out)
	}
	b.start(join...)
	a.untilDoorOpens(b)
	b.signal(syscall.SIGTERM)
	b.start("agent")
	a.untilDoorOpens(b)

	out := b.must("leave", "--data-dir", b.dir)
	for _, want := range []string{"Deleted      node b", "This host is no node of", "Checked: "} {
		if !strings.Contains(out, want) {
			t.Errorf("leave doesn't say %q:\n%s", want, out)
		}
	}
	select {
	case <-b.ended:
	case <-time.After(patience):
		t.Error("the agent runs on after it left")
	}
	a.untilReady("a")
	b.refused("has joined no cluster", "agent")
	b.refused("doesn't accept the token", join...)
}

// untilDoorOpens waits until a node's door answers at each of its addresses who proves
// to be the API server, with a certificate of the cluster's authority.
func (h *host) untilDoorOpens(node *host) {
	h.Helper()
	authority, err := certs.Open(filepath.Join(h.dir, "pki"), time.Now)
	if err != nil {
		h.Fatal(err)
	}
	leaf, err := authority.ClientLeaf("portico-apiserver")
	if err != nil {
		h.Fatal(err)
	}
	for _, at := range []netip.Addr{node.ipv4, node.ipv6} {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
				err = h.Do(func() (err error) {
					c, err = (&net.Dialer{}).DialContext(ctx, network, address)
					return err
				})
				return c, err
			},
			TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), GetClientCertificate: leaf.GetClientCertificate, MinVersion: tls.VersionTLS13},
		}}
		h.until("the door of "+node.Name, func() error {
			resp, err := client.Get("https://" + netip.AddrPortFrom(at, 10250).String() + "/pods")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if name := resp.TLS.PeerCertificates[0].Subject.CommonName; resp.StatusCode != http.StatusOK || name != "system:node:"+node.Name {
				return fmt.Errorf("%s answers %s", name, resp.Status)
			}
			return nil
		})
	}
}
