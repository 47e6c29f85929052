package cli

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	componentcli "k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"

	_ "portico.dev/portico/internal/cli/translations"
)

// newKubectl only documents the command; Main runs it before cobra sees it.
func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [arguments]",
		Short: "kubectl, built in: the stock client's own library",
		Long: `Runs kubectl, so that nothing else need be installed. Without KUBECONFIG and
--kubeconfig it uses the kubeconfig of ` + defaultDataDir + `.`,
		Example: `  portico kubectl get services -A
  portico kubectl explain service.spec`,
		DisableFlagParsing: true,
	}
}

// kubectl runs the built-in kubectl and returns its exit code.
func kubectl(args []string) int {
	if os.Getenv("KUBECONFIG") == "" {
		if file := filepath.Join(defaultDataDir, "kubeconfig"); readable(file) {
			os.Setenv("KUBECONFIG", file)
		}
	}
	// Its completions and plugins look at the program's own arguments.
	os.Args = append([]string{"kubectl"}, args...)
	cmd := kubectlcmd.NewDefaultKubectlCommand()
	if err := componentcli.RunNoErrOutput(cmd); err != nil {
		kubectlutil.CheckErr(err) // prints and exits with kubectl's own code
	}
	return 0
}

func readable(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
