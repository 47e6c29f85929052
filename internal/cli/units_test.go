package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unitKeys are what a unit file of ours may say, by section (systemd.unit(5),
// systemd.service(5), systemd.exec(5), systemd.kill(5)).
var unitKeys = map[string][]string{
	"Unit":    {"Description", "Wants", "After", "StartLimitIntervalSec"},
	"Service": {"Type", "EnvironmentFile", "ExecStart", "KillMode", "Restart", "RestartSec", "LimitNOFILE"},
	"Install": {"WantedBy"},
}

// readUnit gives the values of each key of a unit file.
func readUnit(t *testing.T, file string) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, section := map[string][]string{}, ""
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		switch key, value, pair := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
		case !pair || !slices.Contains(unitKeys[section], key):
			t.Errorf("%s: [%s] %q is nothing that systemd knows, or that this test does", file, section, line)
		default:
			out[key] = append(out[key], value)
		}
	}
	return out
}

// The unit files start commands and flags that exist, leave the data plane to the two files
// of the environment, and don't end guests with the daemon.
func TestUnits(t *testing.T) {
	files, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil || len(files) != 2 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		unit := readUnit(t, file)
		if want := []string{"-/etc/default/portico", "-/etc/sysconfig/portico"}; !slices.Equal(unit["EnvironmentFile"], want) {
			t.Errorf("%s reads %q, want %q", file, unit["EnvironmentFile"], want)
		}
		if !slices.Equal(unit["KillMode"], []string{"process"}) {
			t.Errorf("%s: KillMode is %q", file, unit["KillMode"])
		}
		if len(unit["ExecStart"]) != 1 {
			t.Fatalf("%s starts %q", file, unit["ExecStart"])
		}
		words := strings.Fields(unit["ExecStart"][0])
		if !filepath.IsAbs(words[0]) || filepath.Base(words[0]) != "portico" || words[len(words)-1] != "$PORTICO_OPTIONS" {
			t.Errorf("%s starts %q", file, words)
		}
		root := newRoot()
		cmd, rest, err := root.Find(words[1 : len(words)-1])
		if err != nil || cmd == root {
			t.Errorf("%s: no command %q: %v", file, words[1:], err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil || cmd.Flags().NArg() > 0 {
			t.Errorf("%s: %q: %v, %q", file, rest, err, cmd.Flags().Args())
		}
		if cmd.Flags().Changed("dataplane") {
			t.Errorf("%s: a flag wins over %s", file, modeVariable)
		}
	}
}
