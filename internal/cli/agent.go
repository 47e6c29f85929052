package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func newAgent() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node side alone, against an API server elsewhere",
		Long: `Run this node's packets, names and guests for an API server that the kubeconfig
names. The ranges and the cluster domain must be those of that server. Consoles of
guests need the door that only ` + "`portico up`" + ` can open so far.`,
		Example: `  portico agent --kubeconfig /etc/portico/kubeconfig`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.readConfig(cmd); err != nil {
				return err
			}
			return runAgentAlone(cmd.Context(), o, newLogger())
		},
	}
	o.nodeFlags(cmd.Flags())
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the API server")
	return cmd
}

func runAgentAlone(ctx context.Context, o *options, log *slog.Logger) error {
	if o.kubeconfig == "" {
		return fmt.Errorf("--kubeconfig is missing: name the file that leads to the API server; where there is none yet, `portico up` writes one")
	}
	if err := o.complete(); err != nil {
		return err
	}
	if _, err := os.Stat(o.kubeconfig); err != nil {
		return fmt.Errorf("--kubeconfig %s can't be read: %w; give the file that leads to the API server", o.kubeconfig, cause(err))
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig %s: %w", o.kubeconfig, err)
	}
	config.WarningHandler = rest.NoWarnings{}
	config.QPS = -1 // the server protects itself; a limit here only delays endpoints
	config.UserAgent = "portico-agent/" + version()
	if err := checkHost(o, log); err != nil {
		return err
	}
	release, err := prepareDataDir(o.dataDir)
	if err != nil {
		return err
	}
	defer release()
	unclaim, err := claimNamespace()
	if err != nil {
		return err
	}
	defer unclaim()
	if err := o.writeRunRecord(); err != nil {
		return err
	}
	return (&nodeRun{o: o, config: config, log: log}).run(ctx)
}
