package link

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/routes/nstest"
)

// VM-04 with the DHCP clients that distributions ship, where they are installed:
// what they tell their scripts is what we meant.
func TestStockClients(t *testing.T) {
	m := node(t)
	vm := boot(t, m, numbered(61))
	dir := t.TempDir()
	script, said := filepath.Join(dir, "script"), filepath.Join(dir, "said")
	// Nothing is configured, for these clients' own scripts rewrite resolv.conf.
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"${1:-$reason}\" = deconfig ] || env > "+said+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"udhcpc", []string{"-i", vm.nic, "-s", script, "-n", "-q", "-f", "-t", "5", "-T", "1", "-O", "staticroutes", "-O", "search", "-O", "mtu"}, []string{
			"ip=10.245.0.61", "router=169.254.1.1", "subnet=255.255.255.255", "mtu=1450", "dns=10.96.0.10", "hostname=example-vm",
			"staticroutes=169.254.1.1/32 0.0.0.0 0.0.0.0/0 169.254.1.1", "search=example-namespace.svc.cluster.local svc.cluster.local",
		}},
		{"dhclient", []string{"-4", "-1", "-d", "-sf", script, "-lf", filepath.Join(dir, "lease4"), "-pf", filepath.Join(dir, "pid4"), vm.nic}, []string{
			"new_ip_address=10.245.0.61", "new_routers=169.254.1.1", "new_host_name=example-vm", "new_domain_name_servers=10.96.0.10",
			"new_dhcp_server_identifier=169.254.1.1", "new_interface_mtu=1450", "new_subnet_mask=255.255.255.255",
		}},
		{"dhclient", []string{"-6", "-1", "-d", "-sf", script, "-lf", filepath.Join(dir, "lease6"), "-pf", filepath.Join(dir, "pid6"), vm.nic}, []string{
			"new_ip6_address=fd00:10:245::61", "new_dhcp6_name_servers=fd00:10:96::a",
			"new_dhcp6_domain_search=example-namespace.svc.cluster.local. svc.cluster.local.",
		}},
	} {
		t.Run(c.name+" "+c.args[0], func(t *testing.T) {
			path, err := exec.LookPath(c.name)
			if err != nil {
				t.Skip(err)
			}
			_ = os.Remove(said)
			cmd := exec.Command(path, c.args...)
			cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
			vm.Do(t, cmd.Start)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() {
				_ = cmd.Process.Kill()
				<-ended
			}()
			nstest.Eventually(t, 10*time.Second, "bound", func() bool {
				b, _ := os.ReadFile(said)
				return strings.Contains(string(b), c.want[0])
			})
			b, _ := os.ReadFile(said)
			for _, want := range c.want {
				if !strings.Contains("\n"+string(b), "\n"+want+"\n") {
					t.Errorf("it wasn't told %s; but\n%s", want, b)
				}
			}
		})
	}
}
