// Package api proves the API from outside: scripts that run kubectl against
// `portico up --no-agent`, and clients written with client-go. Each server of a script
// is a process of its own, made from this test binary; kubectl is the built-in one, or
// the program that KUBECTL names.
package api

import (
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"portico.dev/portico/internal/cli"
	"portico.dev/portico/test/await"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"portico": func() { os.Exit(cli.Main(os.Args[1:])) },
		"kubectl": func() { os.Exit(kubectl(os.Args[1:])) },
	})
}

// TestScripts runs scripts that have a server each, which they may change and kill.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               ownServer,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"eventually": await.Eventually,
			"restart":    restart,
			"backend":    backend,
		},
		Condition: condition,
	})
}

// condition adds those of scripts: [root], [address], [builtin] and the likes of [kubectl>=1.24].
func condition(cond string) (bool, error) {
	switch cond {
	case "builtin":
		return os.Getenv("KUBECTL") == "", nil
	case "address":
		_, ok := ownAddress()
		return ok, nil
	case "root":
		return os.Geteuid() == 0, nil
	}
	var minor int
	if _, err := fmt.Sscanf(cond, "kubectl>=1.%d", &minor); err == nil {
		client, err := kubectlMinor()
		return client >= minor, err
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}
