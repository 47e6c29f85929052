package bgp

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"portico.dev/portico/test/rig"
)

// router is a host that runs somebody else's BGP.
type router struct {
	*rig.Host
	t    *testing.T
	dir  string
	last *exec.Cmd // the daemon that was started last
}

func newRouter(t *testing.T, lan *rig.LAN) *router {
	t.Helper()
	r := &router{Host: rig.NewHost(t, "router"), t: t, dir: t.TempDir()}
	lan.Connect(t, r.Host, netip.MustParsePrefix("192.0.2.254/24"), netip.MustParsePrefix("2001:db8::254/64"))
	return r
}

// run runs a daemon in the host until the test ends. It must stay in the foreground.
func (r *router) run(program string, args ...string) {
	r.t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		r.t.Fatalf("%v: apt-get install --no-install-recommends frr bird2 (make deps)", err)
	}
	var said bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := r.Do(cmd.Start); err != nil {
		r.t.Fatal(err)
	}
	r.last = cmd
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if r.t.Failed() {
			r.t.Logf("%s said:\n%s", program, said.String())
		}
	})
}

func (r *router) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// frr runs FRR with a configuration.
func (r *router) frr(config string) {
	r.t.Helper()
	path := r.write("frr.conf", config)
	// Its daemons give up root for a user that must reach the sockets here.
	for dir, mode := range map[string]os.FileMode{filepath.Dir(r.dir): 0o711, r.dir: 0o777} {
		if err := os.Chmod(dir, mode); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, daemon := range []string{"zebra", "bfdd", "bgpd"} {
		args := []string{"-f", path, "-i", r.dir + "/" + daemon + ".pid", "-z", r.dir + "/zserv", "--vty_socket", r.dir}
		if daemon == "bfdd" {
			args = append(args, "--bfdctl", r.dir+"/bfdd.sock")
		}
		r.run("/usr/lib/frr/"+daemon, args...)
		eventually(r.t, daemon+" runs", func() error {
			_, err := os.Stat(r.dir + "/" + daemon + ".vty")
			return err
		})
	}
}

func (r *router) vtysh(command string) string {
	r.t.Helper()
	out, err := r.Run("vtysh", "--vty_socket", r.dir, "-c", command)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// bird runs BIRD with a configuration.
func (r *router) bird(config string) {
	r.t.Helper()
	r.run("bird", "-f", "-c", r.write("bird.conf", config), "-s", r.dir+"/bird.ctl", "-P", r.dir+"/bird.pid")
	eventually(r.t, "bird runs", func() error {
		_, err := os.Stat(r.dir + "/bird.ctl")
		return err
	})
}

func (r *router) birdc(command string) string {
	r.t.Helper()
	out, err := r.Run("birdc", append([]string{"-s", r.dir + "/bird.ctl"}, strings.Fields(command)...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// hops gives the next hops that the router's kernel has for a prefix.
func (r *router) hops(prefix string) []string {
	r.t.Helper()
	p := netip.MustParsePrefix(prefix)
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := r.Links.RouteList(nil, family)
	if err != nil {
		r.t.Fatal(err)
	}
	var hops []string
	for _, route := range routes {
		if route.Dst == nil || route.Dst.String() != prefix {
			continue
		}
		if route.Gw != nil {
			hops = append(hops, route.Gw.String())
		}
		for _, h := range route.MultiPath {
			hops = append(hops, h.Gw.String())
		}
	}
	return hops
}
