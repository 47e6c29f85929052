package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/routes"
)

func newDataplane() *cobra.Command {
	d := &dataplaneRun{}
	cmd := &cobra.Command{
		Use:   "dataplane",
		Short: "Show, verify and remove what the kernel holds of Services",
		Long: `Look at this host's packet rules: print them as the kernel has them, compare them with
what the API asks of this node, remove them. All three need root, and the network
namespace in which the agent runs.`,
		Example: `  portico dataplane show
  portico dataplane show --service default/web
  portico dataplane verify && echo equal
  portico dataplane cleanup`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&d.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: that of the agent's last run, then KUBECONFIG)")
	f.StringVar(&d.dataDir, "data-dir", defaultDataDir, "`folder` of the agent's run, as given to portico up or agent")
	return group(cmd, newDataplaneShow(d), newDataplaneVerify(d), newDataplaneCleanup())
}

// errNotRoot is what the kernel's answers to others would only hide.
var errNotRoot = errors.New("the kernel shows and changes packet rules for root only; run it with sudo")

// dataplaneRun is one run of a command that compares the kernel with the API.
type dataplaneRun struct {
	kubeconfig, dataDir string

	last *runRecord // nil: no run is known
	log  *slog.Logger
}

// open looks at the last run. command is this one's, for remedies.
func (d *dataplaneRun) open(command string) (err error) {
	d.log = newTerseLogger()
	if d.dataDir, err = filepath.Abs(d.dataDir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	d.last, err = readRunRecord(d.dataDir)
	if os.Geteuid() != 0 && (d.last == nil || !d.last.Limited) { // its sockets are that user's own
		return errNotRoot
	}
	if err != nil {
		return err
	}
	return checkNamespace(d.last, command)
}

// inspect opens what reads the data plane of the last run.
func (d *dataplaneRun) inspect() (dataplane.Inspector, error) {
	of := techniqueOf(d.last)
	if of.inspect == nil {
		return nil, fmt.Errorf("the rules of the %s data plane can't be read back; the metrics portico_dataplane_* tell whether all is carried out", of.name)
	}
	return of.inspect(d.last)
}

// api gives the client of the API that the agent here listens to.
func (d *dataplaneRun) api() (kubernetes.Interface, error) {
	c := client{kubeconfig: d.kubeconfig}
	own := filepath.Join(d.dataDir, kubeconfigFile)
	switch {
	case c.kubeconfig != "":
	case d.last != nil && d.last.Kubeconfig != "":
		c.kubeconfig = d.last.Kubeconfig
	case readable(own):
		c.kubeconfig = own
	}
	config, err := c.load()
	if err != nil {
		return nil, err
	}
	config.WarningHandler, config.QPS = rest.NoWarnings{}, -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig can't be used: %w", err)
	}
	return kube, nil
}

// plan is what the API asks of a node, made by the agent's own code and followed until
// close. No kernel knows of it.
type plan struct {
	*dataplane.Plane
	close func()
}

// follow makes the plan of a node once everything was listed.
func (d *dataplaneRun) follow(ctx context.Context, kube kubernetes.Interface, node string, ranges agent.Ranges, plane *dataplane.Plane) (*plan, error) {
	ctx, cancel := context.WithCancel(ctx)
	listed := &listed{Plane: plane, first: make(chan struct{})}
	var group sync.WaitGroup
	ended := make(chan error, 1)
	group.Go(func() { ended <- agent.Run(ctx, kube, node, d.log, ranges, listed) })
	p := &plan{plane, func() {
		cancel()
		group.Wait()
	}}
	wait, stop := context.WithTimeout(ctx, statusTimeout)
	defer stop()
	select {
	case <-listed.first:
		return p, nil
	case err := <-ended:
		p.close()
		return nil, err
	case <-wait.Done():
		p.close()
		return nil, fmt.Errorf("list Services, EndpointSlices, this Node and ServiceCIDRs: %w", wait.Err())
	}
}

// listed is a Plane that tells when it was given everything.
type listed struct {
	*dataplane.Plane
	once  sync.Once
	first chan struct{}
}

// Replace implements agent.Consumer.
func (l *listed) Replace(node *catalog.Node, views []catalog.View) {
	l.Plane.Replace(node, views)
	l.once.Do(func() { close(l.first) })
}

// intent is all that the kernel is compared with.
type intent struct {
	*plan
	site dataplane.Site
}

// wants makes what the agent of this node would have the kernel hold now.
func (d *dataplaneRun) wants(ctx context.Context) (*intent, error) {
	switch {
	case d.last == nil:
		return nil, fmt.Errorf("no agent has run on --data-dir %s; give the folder that `portico up` or `portico agent` was given", d.dataDir)
	case !d.last.Agent || d.last.DataPlane == "none":
		return nil, fmt.Errorf("the last run on --data-dir %s had no data plane; there is nothing to compare", d.dataDir)
	}
	kube, err := d.api()
	if err != nil {
		return nil, err
	}
	asked, stop := context.WithTimeout(ctx, statusTimeout)
	defer stop()
	node, err := kube.CoreV1().Nodes().Get(asked, d.last.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the API for this node: %w", err)
	}
	var pods []netip.Prefix
	for _, s := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("spec.podCIDRs of node %s: %w", node.Name, err)
		}
		pods = append(pods, p)
	}
	addrs, err := routes.PrimaryAddresses(d.last.NodeIPs)
	if err != nil {
		return nil, err
	}
	nodePorts, err := routes.NodePortAddresses(d.last.NodePorts, addrs)
	if err != nil {
		return nil, err
	}
	plane := dataplane.New(nil, dataplane.Options{NodeAddresses: nodePorts, ServiceRanges: d.last.Services})
	config := routes.Config{Services: d.last.Services, Cluster: d.last.Cluster, Guests: d.last.Guests}
	ranges := agent.Ranges{Default: d.last.Services, To: func(all []netip.Prefix) {
		usable, err := routes.UsableServices(config, all)
		if err != nil {
			d.log.Warn("The ranges of cluster IPs aren't compared with this host's routes", "error", err)
			usable = all
		}
		plane.SetServiceRanges(usable)
	}}
	p, err := d.follow(ctx, kube, d.last.NodeName, ranges, plane)
	if err != nil {
		return nil, err
	}
	workloads := append(append([]netip.Prefix{}, d.last.Cluster...), d.last.Guests...)
	return &intent{p, dataplane.Site{Workloads: workloads, Own: routes.OwnAddresses(pods)}}, nil
}

func newDataplaneCleanup() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the data plane's rules from this network namespace",
		Long: `Remove what serves Services, such as the nftables tables "ip portico" and "ip6 portico",
and say so. Connections that are open go on until the kernel forgets them, but for those of
IPVS, which end; new ones to Services fail. Nobody else's table is touched. Where an agent
runs it would write them again at once, so that this is refused; --force does it all the
same, which makes the agent write everything anew. ` + "`portico down`" + ` removes links,
routes and guests too.`,
		Example: `  portico dataplane cleanup
  portico dataplane cleanup --force`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := newTerseLogger()
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			if !force {
				if pid, uid := claimant(); pid > 0 && uid == 0 {
					return fmt.Errorf("an agent (process %d) runs here and would write the tables again at once; stop it first, or give --force", pid)
				}
				release, err := claimNamespace()
				if err != nil {
					return err
				}
				defer release()
			}
			removed, err := removeTechniques(cmd.Context(), log)
			for _, what := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "Removed", what)
			}
			if err == nil && len(removed) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "There was nothing to remove.")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove them although an agent runs")
	return cmd
}
