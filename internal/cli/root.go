package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"
)

// Main runs the command line and returns the process's exit code: 0, or 1 after one
// sentence on standard error that says what went wrong and how to mend it.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// kubectl parses its own flags and exits by itself, so it is no cobra child.
	if len(args) > 0 && args[0] == "kubectl" {
		return kubectl(args[1:])
	}
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	fmt.Fprintf(os.Stderr, "portico: %s\n", sentence(err))
	return 1
}

// sentence puts an error on one line: joined errors have one for each.
func sentence(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// exitError ends the program with a code and without a message: it was printed.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "portico",
		Short: "Kubernetes Services for virtual machines, pods and processes",
		Long: `Portico gives machines a front door: Kubernetes Services for virtual machines,
pods and processes, in one program. On a Linux host it is the whole system: a
Kubernetes-compatible API, addresses and ports, endpoints, a service proxy in the
kernel, DNS, and VirtualMachines that really run.`,
		Example: `  portico up                              # start, as root
  portico kubectl apply -f examples/      # create machines and a Service
  portico kubectl get vm,svc,endpointslices -A
  portico vm restart example-vm -n example-namespace`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetGlobalNormalizationFunc(cliflag.WordSepNormalizeFunc)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	return group(root, newUp(), newAgent(), newDown(), newToken(), newJoin(), newLeave(), newNode(), newVM(), newDNS(), newImage(), newEnv(), newStatus(), newDataplane(), newAnnounce(), newPool(), newPools(), newUser(), newKubeconfig(), newSnapshot(), newVersion(), newKubectl())
}
