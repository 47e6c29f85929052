package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/kubevirt"
	"portico.dev/portico/internal/node/register"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/vm/accel"
)

// statusTimeout bounds each request: who asks for the status doubts that all is well.
const statusTimeout = 5 * time.Second

// status is what `portico status` says, and with --json its shape.
type status struct {
	DataDir   string          `json:"dataDir"`
	Process   int             `json:"process,omitempty"` // 0: none runs on the data directory
	API       apiStatus       `json:"api"`
	Node      string          `json:"node,omitempty"` // this one
	Nodes     []nodeStatus    `json:"nodes"`
	Peers     []peerStatus    `json:"peers"` // the other nodes, as seen from this host
	DataPlane dataPlaneStatus `json:"dataplane"`
	Guests    guestsStatus    `json:"guests"`
	Services  int             `json:"services"`
	Problems  []string        `json:"problems"`
	OK        bool            `json:"ok"` // the exit code is 0
}

type apiStatus struct {
	URL     string `json:"url,omitempty"`
	Ready   bool   `json:"ready"`
	Version string `json:"version,omitempty"`
}

type nodeStatus struct {
	Name      string   `json:"name"`
	Ready     bool     `json:"ready"`
	Message   string   `json:"message,omitempty"` // why it isn't
	Addresses []string `json:"addresses"`
	PodCIDRs  []string `json:"podCIDRs"`
}

type dataPlaneStatus struct {
	Kind    string   `json:"kind"`           // as --dataplane, none, or unknown
	Path    string   `json:"path,omitempty"` // of packets to Services: stack (the kernel's), or process (ours)
	Because string   `json:"because,omitempty"`
	Present bool     `json:"present"`
	Tables  []string `json:"tables"` // in this network namespace
}

type guestsStatus struct {
	Accelerator string         `json:"accelerator"` // kvm, tcg, off, or unknown
	Because     string         `json:"because,omitempty"`
	Machines    int            `json:"machines"`
	Phases      map[string]int `json:"phases"` // of the instances
	// OnlyHere: a joined node may see the instances of its own, and no machines.
	OnlyHere bool `json:"onlyHere,omitempty"`
}

func newStatus() *cobra.Command {
	r := &statusRun{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs here and what is wrong",
		Long: `Say in a screen what runs: the API, the nodes, how each is reached from this host,
this host's data plane and guests, and what to know of problems. The exit code is 1 when the API doesn't answer or this
host's node isn't Ready.`,
		Example: `  portico status
  portico status --json | jq .problems`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			newTerseLogger()
			if r.client.kubeconfig == "" && cmd.Flags().Changed("data-dir") {
				r.client.kubeconfig = filepath.Join(r.dataDir, kubeconfigFile)
			}
			if err := r.run(cmd.Context()); err != nil {
				return err
			}
			var err error
			if asJSON {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(r.status)
			} else {
				err = r.print(cmd.OutOrStdout())
			}
			if err == nil && !r.status.OK {
				err = exitError(1)
			}
			return err
		},
	}
	r.client.flags(cmd)
	cmd.PersistentFlags().Lookup("namespace").Hidden = true // all namespaces are looked at
	cmd.Flags().StringVar(&r.dataDir, "data-dir", defaultDataDir, "`folder` of the store, as given to portico up")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// statusRun collects one status. What can't be found out is a problem, not an error.
type statusRun struct {
	client  client
	dataDir string
	last    *runRecord // nil: no run is known
	status  status
}

func (r *statusRun) problem(format string, args ...any) {
	r.status.Problems = append(r.status.Problems, sentence(fmt.Errorf(format, args...)))
}

func (r *statusRun) run(ctx context.Context) (err error) {
	if r.dataDir, err = filepath.Abs(r.dataDir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	s := &r.status
	s.DataDir, s.Process = r.dataDir, lockHolder(filepath.Join(r.dataDir, lockFile))
	s.Nodes, s.Peers, s.Problems, s.DataPlane.Tables = []nodeStatus{}, []peerStatus{}, []string{}, []string{}
	s.Guests.Phases = map[string]int{}
	if r.last, err = readRunRecord(r.dataDir); err != nil {
		r.problem("%w", err)
	}
	s.OK = r.askAPI(ctx)
	if r.last != nil && r.last.Agent {
		s.Node = r.last.NodeName
		s.OK = r.thisNodeReady() && s.OK
	}
	r.lookAtDataPlane()
	r.lookAtGuests()
	r.lookAtHost()
	r.lookAtAuthority()
	return nil
}

// askAPI fills in what the API knows; it reports whether it answers.
func (r *statusRun) askAPI(ctx context.Context) bool {
	config, err := r.client.load()
	if err != nil {
		r.problem("%w", err)
		return false
	}
	s := &r.status
	s.API.URL = config.Host
	config.Timeout, config.WarningHandler = statusTimeout, rest.NoWarnings{}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		r.problem("the kubeconfig can't be used: %w", err)
		return false
	}
	body, err := kube.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	if err != nil {
		r.problem("the API at %s %s", config.Host, unready(body, err))
		return false
	}
	s.API.Ready = true
	if v, err := kube.Discovery().ServerVersion(); err == nil {
		s.API.Version = v.GitVersion
	}
	for _, err := range []error{r.askNodes(ctx, kube), r.askServices(ctx, kube), r.askMachines(ctx, config)} {
		if err != nil {
			r.problem("%w", err)
		}
	}
	return true
}

// unready says why /readyz didn't answer ok: which checks failed, or the error.
func unready(body []byte, err error) string {
	var failed []string
	for line := range strings.Lines(string(body)) {
		if check, ok := strings.CutPrefix(strings.TrimSpace(line), "[-]"); ok {
			failed = append(failed, check)
		}
	}
	if len(failed) > 0 {
		return "isn't ready: " + strings.Join(failed, ", ")
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // without the URL, which was said
	}
	return fmt.Sprintf("doesn't answer: %v; is `portico up` running?", err)
}

func (r *statusRun) askNodes(ctx context.Context, kube kubernetes.Interface) error {
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the nodes: %w", err)
	}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		found := nodeStatus{Name: n.Name, Addresses: []string{}, PodCIDRs: n.Spec.PodCIDRs, Message: "it hasn't reported yet"}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				found.Addresses = append(found.Addresses, a.Address)
			}
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				found.Ready, found.Message = c.Status == corev1.ConditionTrue, c.Message
			}
			if c.Type == register.ServicesLimited && c.Status == corev1.ConditionTrue {
				r.problem("node %s: %s", n.Name, c.Message)
			}
		}
		if !found.Ready {
			r.problem("node %s isn't Ready: %s", n.Name, found.Message)
		}
		r.status.Nodes = append(r.status.Nodes, found)
	}
	return r.askPeers(ctx, kube, nodes.Items)
}

func (r *statusRun) askServices(ctx context.Context, kube kubernetes.Interface) error {
	services, err := kube.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("count the Services: %w", err)
	}
	r.status.Services = len(services.Items)
	return nil
}

func (r *statusRun) askMachines(ctx context.Context, config *rest.Config) error {
	vms, err := kubevirt.NewForConfig(config, nil)
	if err != nil {
		return err
	}
	machines, err := vms.VirtualMachines("").List(ctx, metav1.ListOptions{})
	var which metav1.ListOptions
	switch {
	case apierrors.IsForbidden(err) && r.last != nil:
		r.status.Guests.OnlyHere = true
		which.FieldSelector = "status.nodeName=" + r.last.NodeName
	case err != nil:
		return fmt.Errorf("list the virtual machines: %w", err)
	default:
		r.status.Guests.Machines = len(machines.Items)
	}
	instances, err := vms.VirtualMachineInstances("").List(ctx, which)
	if err != nil {
		return fmt.Errorf("list the instances of virtual machines: %w", err)
	}
	for i := range instances.Items {
		vmi := &instances.Items[i]
		phase := string(vmi.Status.Phase)
		if phase == "" {
			phase = string(kubevirtv1.Pending)
		}
		r.status.Guests.Phases[phase]++
		if vmi.Status.Phase == kubevirtv1.Failed {
			r.problem("guest %s/%s has failed; `portico kubectl describe vmi %[2]s -n %[1]s` says why", vmi.Namespace, vmi.Name)
		}
	}
	return nil
}

// thisNodeReady reports whether this host's node is Ready.
func (r *statusRun) thisNodeReady() bool {
	for _, n := range r.status.Nodes {
		if n.Name == r.last.NodeName {
			return n.Ready && r.status.Process > 0
		}
	}
	if r.status.API.Ready {
		r.problem("this host's node %s isn't registered", r.last.NodeName)
	}
	return false
}

// elsewhere tells whether the last run was in another network namespace, which can't
// be seen from here.
func (r *statusRun) elsewhere() bool {
	here, err := ownNamespace()
	return err == nil && r.last != nil && r.last.Namespace != here
}

func (r *statusRun) lookAtDataPlane() {
	d := &r.status.DataPlane
	switch {
	case r.last == nil:
		d.Kind = "unknown"
	case !r.last.Agent || r.last.DataPlane == "none":
		d.Kind = "none"
	default:
		of := techniqueOf(r.last)
		d.Kind, d.Path, d.Because = of.name, of.path.name, of.path.because
	}
	if r.last != nil && r.last.Limited {
		d.Present = r.status.Process > 0
		return // there are sockets, and no tables
	}
	tables, err := ourTables()
	if err != nil {
		if !errors.Is(err, fs.ErrPermission) {
			r.problem("%w", err)
		} else if d.works() {
			r.problem("the data plane's tables can be seen by root only; run `sudo portico status`")
		}
		return
	}
	d.Tables = append(d.Tables, tables...)
	if !d.works() {
		return
	}
	found, err := techniqueOf(r.last).remains()
	if err != nil {
		r.problem("%w", err)
		return
	}
	for _, what := range found {
		if !strings.HasPrefix(what, nftTable) { // those are listed
			d.Tables = append(d.Tables, what)
		}
	}
	d.Present = len(found) > 0
	if !d.Present && r.status.Process > 0 && !r.elsewhere() {
		r.problem("the tables of the %s data plane are missing from this network namespace; look at the log of `portico up`", d.Kind)
	}
}

func (r *statusRun) lookAtGuests() {
	g := &r.status.Guests
	switch {
	case r.last == nil:
		g.Accelerator = "unknown"
		return
	case !r.last.Agent || r.last.VM == "off":
		g.Accelerator = "off"
		return
	}
	choice, err := accel.Detect(accel.Mode(r.last.VM))
	switch {
	case err != nil:
		g.Accelerator = "unknown"
		r.problem("%w", err)
		return
	case choice.KVM:
		g.Accelerator = "kvm"
	default:
		g.Accelerator = "tcg"
	}
	g.Because = choice.Message
}

// lookAtHost finds what `portico up` would warn of today.
func (r *statusRun) lookAtHost() {
	if r.last == nil || !r.last.Agent {
		return
	}
	if r.status.Process == 0 {
		r.problem("no Portico runs on %s; packets go on as they were, but nothing follows changes; run `portico up`", r.dataDir)
	}
	if r.elsewhere() {
		r.problem("Portico ran in another network namespace (%s), whose tables and routes can't be seen from here", r.last.Namespace)
		return
	}
	if os.Geteuid() != 0 {
		return // the firewall can't be read
	}
	warnings, err := routes.Check(routes.Config{Services: r.last.Services, Cluster: r.last.Cluster, Guests: r.last.Guests})
	if err != nil {
		r.problem("%w", err)
	}
	for _, w := range warnings {
		r.problem("%s", w)
	}
}
