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
guests need the door that only ` + "`portico up`" + ` can open so far.

With --only dns it is the cluster's DNS server and nothing else: it changes nothing on
this host, and needs no privilege where it may listen.`,
		Example: `  portico agent --kubeconfig /etc/portico/kubeconfig
  portico agent --only dns --kubeconfig /etc/portico/kubeconfig --dns-listen 169.254.20.10`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.readConfig(cmd); err != nil {
				return err
			}
			return runAgentAlone(cmd.Context(), o, newLogger())
		},
	}
	o.nodeFlags(cmd.Flags())
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the API server")
	cmd.Flags().StringVar(&o.only, "only", "", "run this `part` alone: dns")
	cmd.Flags().StringVar(&o.dns.listen, "dns-listen", "127.0.0.1:53", "`addresses` where the DNS server answers with --only dns")
	return cmd
}

func runAgentAlone(ctx context.Context, o *options, log *slog.Logger) error {
	if o.kubeconfig == "" {
		return fmt.Errorf("--kubeconfig is missing: name the file that leads to the API server; where there is none yet, `portico up` writes one")
	}
	if o.only != "" && o.only != onlyDNS {
		return fmt.Errorf("--only %q is unknown; the one part that runs alone is %s", o.only, onlyDNS)
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
	if o.only == onlyDNS {
		return runNamesAlone(ctx, o, config, log)
	}
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
	if err := o.checkMetrics(); err != nil {
		return err
	}
	if err := o.writeRunRecord(); err != nil {
		return err
	}
	return (&nodeRun{o: o, config: config, log: log, alone: true}).run(ctx)
}
