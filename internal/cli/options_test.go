package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// parse reads a command line and a configuration file as `portico up` does.
func parse(t *testing.T, file string, args ...string) (*options, error) {
	t.Helper()
	o := &options{}
	cmd := &cobra.Command{Use: "up"}
	o.nodeFlags(cmd.Flags())
	o.serverFlags(cmd.Flags())
	path := filepath.Join(t.TempDir(), "portico.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(append(args, "--config", path)); err != nil {
		t.Fatal(err)
	}
	return o, o.readConfig(cmd)
}

func TestConfigFile(t *testing.T) {
	const file = `
# a comment
listen: 127.0.0.1:7000
no-agent: true
node-port-range: 30000-30100
service-cidr: [10.96.0.0/16, "fd00:10:96::/112"]
node-name: 42
`
	for _, tc := range []struct {
		name, file string
		args       []string
		want       options // the fields that are looked at below
	}{
		{"the file", file, nil, options{
			listen: "127.0.0.1:7000", noAgent: true, nodePortRange: "30000-30100", serviceCIDR: "10.96.0.0/16,fd00:10:96::/112", nodeName: "42",
		}},
		{"flags win", file, []string{"--listen", "127.0.0.1:8000", "--no-agent=false"}, options{
			listen: "127.0.0.1:8000", noAgent: false, nodePortRange: "30000-30100", serviceCIDR: "10.96.0.0/16,fd00:10:96::/112", nodeName: "42",
		}},
		{"flags win, also with the default's value", file, []string{"--listen", "127.0.0.1:6443", "--node-name", ""}, options{
			listen: "127.0.0.1:6443", noAgent: true, nodePortRange: "30000-30100", serviceCIDR: "10.96.0.0/16,fd00:10:96::/112",
		}},
		{"an empty file", "# nothing\n", nil, options{
			listen: "127.0.0.1:6443", nodePortRange: "30000-32767", serviceCIDR: "10.96.0.0/12,fd00:10:96::/112",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := parse(t, tc.file, tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			got := options{listen: o.listen, noAgent: o.noAgent, nodePortRange: o.nodePortRange, serviceCIDR: o.serviceCIDR, nodeName: o.nodeName}
			if got.listen != tc.want.listen || got.noAgent != tc.want.noAgent || got.nodePortRange != tc.want.nodePortRange ||
				got.serviceCIDR != tc.want.serviceCIDR || got.nodeName != tc.want.nodeName {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestConfigFileErrors(t *testing.T) {
	for _, tc := range []struct{ name, file, want string }{
		{"unknown key", "listne: x", `there is no setting "listne"; it has: advertise-address,`},
		{"not itself", "config: x", `there is no setting "config"`},
		{"the first of several, always", "zzz: 1\naaa: 1", `there is no setting "aaa"`},
		{"map", "listen: {port: 1}", `"listen" can't be a map; it wants text: address`},
		{"nested list", "service-cidr: [[a]]", `"service-cidr" can't be a list`},
		{"empty list", "service-cidr: []", `"service-cidr" can't be a list`},
		{"null", "listen: null", `"listen" can't be empty`},
		{"word for a switch", "no-agent: 3.5", `"no-agent" can't be 3.5; it wants true or false`},
		{"a list of settings", "- listen", "it is a list, not a map of settings"},
		{"a word", "listen", `it is "listen", not a map of settings`},
		{"broken", "listen: [", "it is not YAML: line 1: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parse(t, tc.file)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %s", err, tc.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// DP-05: the addresses of node ports are a flag or a setting of the file, a list too.
func TestNodePortSetting(t *testing.T) {
	for _, tc := range []struct{ file, want string }{
		{"", "[]"},
		{"nodeport-addresses: primary", "[]"},
		{`nodeport-addresses: [192.0.2.0/24, "2001:db8::/64"]`, "[192.0.2.0/24 2001:db8::/64]"},
	} {
		o, err := parse(t, tc.file+"\n")
		if err == nil {
			err = o.complete()
		}
		if got := fmt.Sprint(o.nodePortRanges); err != nil || got != tc.want {
			t.Errorf("%q: got %s, %v, want %s", tc.file, got, err, tc.want)
		}
	}
	o, err := parse(t, "", "--nodeport-addresses", "192.0.2.10")
	if err == nil {
		err = o.complete()
	}
	if err == nil || !strings.Contains(err.Error(), `--nodeport-addresses: "192.0.2.10" is not an address range; write ranges like`) {
		t.Errorf("an address: %v", err)
	}
}

// FuzzConfigFile shows that any file is taken or refused, never a crash.
func FuzzConfigFile(f *testing.F) {
	f.Add("listen: 127.0.0.1:1")
	f.Add("- a\n- {b: [c]}")
	f.Add("service-cidr: [1, 2.5, null]")
	f.Fuzz(func(t *testing.T, file string) {
		settings, err := parseSettings([]byte(file))
		if err != nil {
			return
		}
		for _, v := range settings {
			if s, ok := text(v); !ok && s != "" {
				t.Errorf("%v gives %q and no value", v, s)
			}
		}
	})
}
