package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func able() error { return nil }

// DP-21: the technique is the one that is asked for or the first that works, and what this
// host can't do is said with what it can.
func TestPickTechnique(t *testing.T) {
	lacks := func() error { return errors.New("the kernel has no ip_vs") }
	modern := []technique{{name: "nftables", missing: able}, {name: "iptables", missing: able}, {name: "ipvs", missing: lacks}}
	old := []technique{{name: "nftables", missing: lacks}, {name: "iptables", missing: able}}
	none := []technique{{name: "nftables", missing: lacks}}
	for _, c := range []struct {
		from   []technique
		choice string
		want   string // a name, or part of the error
	}{
		{modern, "auto", "nftables"},
		{modern, "iptables", "iptables"},
		{old, "auto", "iptables"},
		{modern, "ipvs", "--dataplane ipvs can't work on this host: ipvs: the kernel has no ip_vs; this host can do --dataplane nftables or iptables"},
		{none, "auto", "nftables: the kernel has no ip_vs; --dataplane none leaves packets to another program"},
	} {
		got, err := pick(c.from, "--dataplane", c.choice)
		switch {
		case err == nil && got.name == c.want:
		case err == nil, !strings.Contains(err.Error(), c.want):
			t.Errorf("%s of %d: %v, %v; want %s", c.choice, len(c.from), got, err, c.want)
		}
	}
	if _, err := pick(modern, modeVariable, "ipvs"); err == nil || !strings.HasPrefix(err.Error(), modeVariable+" ipvs can't work") {
		t.Errorf("chosen by the variable: %v", err)
	}
}

// The flag and the configuration win over the environment's variable, whose mistakes are
// called by its name.
func TestDataplaneVariable(t *testing.T) {
	for _, c := range []struct{ flag, variable, want string }{
		{"", "", "auto"},
		{"", "NFTables", "nftables"},
		{"none", "nftables", "none"},
		{"", "winkernel", modeVariable + ` "winkernel" is unknown`},
		{"winkernel", "", `--dataplane "winkernel" is unknown`},
	} {
		t.Setenv(modeVariable, c.variable)
		o := &options{dataplane: c.flag}
		err := o.completeDataplane()
		if err == nil && o.dataplane != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("flag %q, variable %q: %q, %v; want %q", c.flag, c.variable, o.dataplane, err, c.want)
		}
	}
}

// DP-24: the status says for each technique which path packets take and why, for people and
// for programs.
func TestPath(t *testing.T) {
	want := map[string][2]string{
		nftablesName:  {"stack", "through the kernel's network stack: packets must meet the host's own netfilter rules"},
		iptablesName:  {"stack", "through the kernel's network stack: packets must meet the host's own netfilter rules"},
		ipvsName:      {"stack", "through the kernel's network stack: packets must meet the host's own netfilter rules; with IPVS, requests meet those for input"},
		userspaceName: {"process", "through this host's Portico process: connections end at its sockets;"},
	}
	for _, name := range techniqueNames() {
		r := &statusRun{last: &runRecord{Agent: true, DataPlane: name}}
		r.lookAtDataPlane()
		raw, err := json.Marshal(r.status)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := r.print(&out); err != nil {
			t.Fatal(err)
		}
		w := want[name]
		if json := `"path":"` + w[0] + `","because":"`; w[0] == "" || !strings.Contains(string(raw), json) {
			t.Errorf("%s: no %q in %s", name, json, raw)
		}
		if line := "Path        " + w[1]; !strings.Contains(out.String(), line) {
			t.Errorf("%s: no %q in\n%s", name, line, out.String())
		}
	}
	r := &statusRun{last: &runRecord{Agent: true, DataPlane: dataplaneNone}}
	r.lookAtDataPlane()
	if r.status.DataPlane.Path != "" {
		t.Errorf("without a data plane: path %q", r.status.DataPlane.Path)
	}
}
