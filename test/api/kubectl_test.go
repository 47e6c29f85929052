package api

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"portico.dev/portico/internal/cli"
	"portico.dev/portico/test/await"
)

// kubectl runs the built-in client or the one that KUBECTL names.
func kubectl(args []string) int {
	program := os.Getenv("KUBECTL")
	if program == "" {
		return cli.Main(append([]string{"kubectl"}, args...))
	}
	// In this process's place, so that a script's signals reach it.
	err := syscall.Exec(program, append([]string{"kubectl"}, args...), os.Environ())
	fmt.Fprintf(os.Stderr, "run %s: %v\n", program, err)
	return 127
}

// kubectlMinor is the client's version behind "1."; the built-in one is the newest.
var kubectlMinor = sync.OnceValues(func() (int, error) {
	program := os.Getenv("KUBECTL")
	if program == "" {
		return math.MaxInt, nil
	}
	raw, err := exec.Command(program, "version", "--client", "--output=json").Output()
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	var answer struct{ ClientVersion struct{ GitVersion string } }
	if err := json.Unmarshal(raw, &answer); err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	var minor int
	if _, err := fmt.Sscanf(answer.ClientVersion.GitVersion, "v1.%d.", &minor); err != nil {
		return 0, fmt.Errorf("understand the version %q of %s: %w", answer.ClientVersion.GitVersion, program, err)
	}
	return minor, nil
})

// TestKubectl runs the scripts of a stock client's verbs. They share one server, and
// each has a namespace of its own, the current one, by the name of NS.
func TestKubectl(t *testing.T) {
	shared := &server{dir: t.TempDir()}
	if err := shared.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the scripts, which run in parallel
		if err := shared.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "kubectl"),
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return ownNamespace(env, shared.kubeconfig()) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"eventually": await.Eventually,
			"explain":    explainAll,
		},
		Condition: condition,
	})
}

// ownNamespace makes one for the script, and a kubeconfig with it as the current one.
func ownNamespace(env *testscript.Env, kubeconfig string) error {
	name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return err
	}
	config.Contexts[config.CurrentContext].Namespace = name
	own := filepath.Join(env.WorkDir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, own); err != nil {
		return err
	}
	for key, value := range map[string]string{"NS": name, "KUBECONFIG": own, "HOME": env.WorkDir, "KUBECTL": os.Getenv("KUBECTL")} {
		env.Setenv(key, value)
	}
	rest, err := clientcmd.BuildConfigFromFlags("", own)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	_, err = kube.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}
