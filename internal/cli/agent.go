package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/bootstrap"
)

// learnTimeout bounds the look at the cluster's settings at a start: without an answer
// those of the last one serve.
const learnTimeout = 5 * time.Second

func newAgent() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node side alone, against an API server elsewhere",
		Long: `Run this node's packets, names and guests for an API server elsewhere. A host that has
joined (` + "`portico join`" + `) needs no flags: its identity is in the data directory, it
learns ranges and domain from the server, renews its certificates, and consoles of its
guests work. With --kubeconfig it is for the API server that the file names, with the
ranges and the domain that are given; consoles need a door, which takes joining.

With --only dns it is the cluster's DNS server and nothing else: it changes nothing on
this host, and needs no privilege where it may listen.`,
		Example: `  portico agent
  portico agent --kubeconfig /etc/portico/kubeconfig
  portico agent --nodeport-addresses 192.0.2.0/24,2001:db8::/64
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
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the API server (default: this host's identity, if it has joined)")
	cmd.Flags().StringVar(&o.only, "only", "", "run this `part` alone: dns")
	cmd.Flags().StringVar(&o.dns.listen, "dns-listen", "127.0.0.1:53", "`addresses` where the DNS server answers with --only dns")
	return cmd
}

func runAgentAlone(ctx context.Context, o *options, log *slog.Logger) error {
	if o.only != "" && o.only != onlyDNS {
		return fmt.Errorf("--only %q is unknown; the one part that runs alone is %s", o.only, onlyDNS)
	}
	given := o.nodeName
	if err := o.complete(); err != nil {
		return err
	}
	if o.kubeconfig == "" && o.only == "" {
		return runAsMember(ctx, o, given, log)
	}
	config, err := o.agentConfig()
	if err != nil {
		return err
	}
	if o.only == onlyDNS {
		return runNamesAlone(ctx, o, config, log)
	}
	if err := checkHost(o, log); err != nil {
		return err
	}
	release, err := o.hold()
	if err != nil {
		return err
	}
	defer release()
	return o.runAgent(ctx, &nodeRun{o: o, config: config, log: log, alone: true, stranger: true})
}

// agentConfig leads to the API server that --kubeconfig names.
func (o *options) agentConfig() (*rest.Config, error) {
	if o.kubeconfig == "" {
		return nil, errors.New("--kubeconfig is missing: name the file that leads to the API server; where there is none yet, `portico up` writes one")
	}
	if _, err := os.Stat(o.kubeconfig); err != nil {
		return nil, fmt.Errorf("--kubeconfig %s can't be read: %w; give the file that leads to the API server", o.kubeconfig, cause(err))
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %s: %w", o.kubeconfig, err)
	}
	return asAgent(config), nil
}

func asAgent(config *rest.Config) *rest.Config {
	config.WarningHandler = rest.NoWarnings{}
	config.QPS = -1 // the server protects itself; a limit here only delays endpoints
	config.UserAgent = "portico-agent/" + version()
	config.DisableCompression = true // as inProtobuf has it: clients share connections where their settings are equal
	dialOnce(config)
	return config
}

// hold makes this process the one of its data directory and network namespace.
func (o *options) hold() (release func(), err error) {
	unlock, err := prepareDataDir(o.dataDir)
	if err != nil {
		return nil, err
	}
	unclaim, err := claimNamespace()
	if err != nil {
		unlock()
		return nil, err
	}
	return func() {
		unclaim()
		unlock()
	}, nil
}

// runAgent runs the node side in a process that is nothing else.
func (o *options) runAgent(ctx context.Context, n *nodeRun) error {
	if err := o.checkMetrics(); err != nil {
		return err
	}
	if err := o.writeRunRecord(); err != nil {
		return err
	}
	return n.run(ctx)
}

// runAsMember runs the node that this host has become by `portico join`.
func runAsMember(ctx context.Context, o *options, given string, log *slog.Logger) error {
	home := homeOf(o.dataDir)
	member, err := home.Read()
	switch {
	case err != nil:
		return err
	case member == nil:
		return fmt.Errorf("this host has joined no cluster (%s isn't there), and --kubeconfig is missing; run the command that `portico token create` prints on the server, or name a file that leads to the API server", home)
	case given != "" && given != member.Node:
		return fmt.Errorf("this host has joined as node %s; run `portico leave` before it joins as %s", member.Node, given)
	}
	release, err := o.hold()
	if err != nil {
		return err
	}
	defer release()
	return runMember(ctx, o, home, member, log)
}

// runMember runs a node that has joined; the data directory is held.
func runMember(ctx context.Context, o *options, home bootstrap.Home, member *bootstrap.Member, log *slog.Logger) error {
	end, err := home.Ended(time.Now())
	if err != nil {
		return err
	}
	if !end.IsZero() {
		return fmt.Errorf("the certificate of node %s ended on %s and this host's clock shows %s; set the clock if it is wrong, or run `portico join` with a new token",
			member.Node, end.Format(time.DateOnly), time.Now().UTC().Format(time.DateOnly))
	}
	config := asAgent(home.Config(member))
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the API: %w", err)
	}
	learn(ctx, home, member, kube, log)
	if err := o.use(member); err != nil {
		return err
	}
	if err := checkHost(o, log); err != nil {
		return err
	}
	keeper, err := bootstrap.NewKeeper(home, member.Node, kube, clock.RealClock{}, log)
	if err != nil {
		return err
	}
	o.kubeconfig = filepath.Join(o.dataDir, kubeconfigFile) // for the commands on this host
	n := &nodeRun{o: o, config: config, keys: memberKeys(keeper), log: log, alone: true}
	n.onNetwork = func(context.Context, []netip.Addr) error {
		n.start("certificates", keeper.Run)
		return nil
	}
	return o.runAgent(ctx, n)
}

// learn asks what the cluster's settings are now.
func learn(ctx context.Context, home bootstrap.Home, member *bootstrap.Member, kube kubernetes.Interface, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	now, err := bootstrap.ReadSettings(ctx, kube)
	if err == nil && now != member.Settings {
		member.Settings = now
		err = home.Note(*member)
	}
	if err != nil {
		log.Warn("The cluster's settings weren't read; those of the last start serve", "error", err)
	}
}
