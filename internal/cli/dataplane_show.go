package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

func newDataplaneShow(d *dataplaneRun) *cobra.Command {
	s := &showRun{dataplaneRun: d}
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the table of Services as the kernel has it",
		Long: `Print what this host's kernel does with packets to Services, read from the kernel and
from nowhere else: each address and port with where its new connections go, for those
from this node and its workloads (INSIDE) and for all others (OUTSIDE), the backends
there are to draw from, session affinity and source ranges, and how many packets were
refused for which reason. A backend on another node has a *: connections from outside
come there with this node's address.

The kernel knows addresses only. Names come from the API, where a kubeconfig leads to
one that answers; without it the table is the same, with addresses alone.`,
		Example: `  portico dataplane show
  portico dataplane show --service default/web
  portico dataplane show --address 10.245.0.2      # as a frontend or as a backend
  portico dataplane show --connections
  portico dataplane show -o json | jq '.frontends[] | select(.outside.action == "drop")'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			if err := s.open("portico dataplane show"); err != nil {
				return err
			}
			table, err := s.read(cmd.Context())
			if err != nil {
				return err
			}
			if s.output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(table)
			}
			return table.print(cmd.OutOrStdout(), s.connections)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&s.output, "output", "o", "table", "`format`: table or json")
	f.StringVar(&s.service, "service", "", "only the Service `NAMESPACE/NAME`; needs the API")
	f.StringVar(&s.address, "address", "", "only frontends at this `address`, or that lead to it")
	f.BoolVar(&s.connections, "connections", false, "count the open connections of each, which reads all that the kernel tracks")
	return cmd
}

// showRun is one run of show.
type showRun struct {
	*dataplaneRun
	output, service, address string
	connections              bool

	want types.NamespacedName // parsed from service
	at   netip.Addr           // parsed from address
}

func (s *showRun) check() (err error) {
	if s.output != "table" && s.output != "json" {
		return fmt.Errorf("--output %q is unknown; choose one of table, json", s.output)
	}
	if s.service != "" {
		namespace, name, ok := strings.Cut(s.service, "/")
		if !ok || namespace == "" || name == "" {
			return fmt.Errorf("--service %q names no Service; write it like default/web", s.service)
		}
		s.want = types.NamespacedName{Namespace: namespace, Name: name}
	}
	if s.address != "" {
		if s.at, err = netip.ParseAddr(s.address); err != nil {
			return fmt.Errorf("--address: %q is not an IP address", s.address)
		}
		s.at = s.at.Unmap()
	}
	return nil
}

// read reads the kernel and names what it can.
func (s *showRun) read(ctx context.Context) (*shownTable, error) {
	kernel, err := s.inspect()
	if err != nil {
		return nil, err
	}
	defer kernel.Close() //nolint:errcheck // only sockets are closed
	c, err := kernel.Contents(ctx)
	if err != nil {
		return nil, err
	}
	var connections map[routing.Key]int
	if s.connections {
		if connections, err = kernel.Connections(ctx, c); err != nil {
			return nil, err
		}
	}
	name, unnamed := s.names(ctx)
	if unnamed != nil && s.service != "" {
		return nil, fmt.Errorf("--service needs the API, which knows names: %w; --address works without", unnamed)
	}
	table := newShownTable(c)
	if unnamed != nil {
		table.Unnamed = sentence(unnamed)
	}
	for i := range c.Frontends {
		k := &c.Frontends[i]
		f := name(k.Key)
		if s.service != "" && (f == nil || f.Service != s.want) || s.at.IsValid() && !leadsTo(k, s.at) {
			continue
		}
		line := newShownFrontend(k, f)
		if connections != nil {
			n := connections[k.Key]
			line.Connections = &n
		}
		table.Frontends = append(table.Frontends, line)
	}
	if s.service != "" && len(table.Frontends) == 0 {
		return nil, fmt.Errorf("the kernel has no frontend of Service %s; `portico kubectl get service -n %s %s` says whether it exists and has a cluster IP", s.service, s.want.Namespace, s.want.Name)
	}
	return table, nil
}

// names gives what tells a frontend's Service, or why only addresses are known.
func (s *showRun) names(ctx context.Context) (func(routing.Key) *routing.Frontend, error) {
	none := func(routing.Key) *routing.Frontend { return nil }
	kube, err := s.api()
	if err != nil {
		return none, err
	}
	// Which node it is decides on backends, not on names.
	node := ""
	if s.last != nil {
		node = s.last.NodeName
	}
	asked, stop := context.WithTimeout(ctx, statusTimeout)
	defer stop()
	if body, err := kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(asked); err != nil {
		return none, errors.New("the API " + unready(body, err))
	}
	p, err := s.follow(ctx, kube, node, agent.Ranges{}, dataplane.New(nil, dataplane.Options{}))
	if err != nil {
		return none, err
	}
	p.close()
	return p.Frontend, nil
}

func leadsTo(f *dataplane.Frontend, a netip.Addr) bool {
	is := func(b dataplane.Slot) bool { return b.Addr() == a }
	return f.Addr == a || slices.ContainsFunc(f.Cluster, is) || slices.ContainsFunc(f.Local, is)
}

// shownTable is what show prints, and with -o json its shape.
type shownTable struct {
	Tables        []string                    `json:"tables"`
	NodeAddresses []netip.Addr                `json:"nodeAddresses"`
	Services      []netip.Prefix              `json:"serviceRanges"`
	Workloads     []netip.Prefix              `json:"workloadRanges"`
	Unnamed       string                      `json:"unnamed,omitempty"` // why no Service is named
	Frontends     []shownFrontend             `json:"frontends"`
	Refused       map[dataplane.Reason]uint64 `json:"refusedPackets,omitempty"` // of both families; nil: not counted
}

type shownFrontend struct {
	Service      string         `json:"service,omitempty"` // NAMESPACE/NAME
	PortName     string         `json:"portName,omitempty"`
	Kind         string         `json:"kind"`
	Protocol     string         `json:"protocol"`
	Address      string         `json:"address"` // 0.0.0.0 and :: stand for the node's addresses
	Port         uint16         `json:"port"`
	Inside       shownWay       `json:"inside"`
	Outside      shownWay       `json:"outside"`
	Cluster      []shownBackend `json:"cluster,omitempty"`
	Local        []shownBackend `json:"local,omitempty"`
	Affinity     int            `json:"affinitySeconds,omitempty"`
	Guarded      bool           `json:"guarded,omitempty"` // sourceRanges alone may come
	SourceRanges []netip.Prefix `json:"sourceRanges,omitempty"`
	Connections  *int           `json:"connections,omitempty"`

	where string // like "TCP *:30080"
}

type shownWay struct {
	Action   string          `json:"action"` // cluster, local, reject, drop, proxy, or lost: no rule of ours takes it
	Backends int             `json:"backends"`
	Proxy    *netip.AddrPort `json:"proxy,omitempty"` // where the agent listens, which alone knows the backends
}

type shownBackend struct {
	Address netip.AddrPort `json:"address"`
	Remote  bool           `json:"remote,omitempty"`  // on another node
	Hairpin bool           `json:"hairpin,omitempty"` // reaches itself by the node's address
}

func newShownTable(c *dataplane.Contents) *shownTable {
	t := &shownTable{
		Tables: c.Tables, NodeAddresses: c.NodeAddresses, Services: c.Services, Workloads: c.Workloads,
		Frontends: []shownFrontend{},
	}
	for _, family := range c.Refused {
		if t.Refused == nil && family != nil {
			t.Refused = map[dataplane.Reason]uint64{}
		}
		for why, n := range family {
			t.Refused[why] += n
		}
	}
	return t
}

// newShownFrontend describes what the kernel has, with the names of named where that
// isn't nil.
func newShownFrontend(k *dataplane.Frontend, named *routing.Frontend) shownFrontend {
	f := shownFrontend{
		Kind: k.Kind.String(), Protocol: k.Protocol.String(), Address: k.Addr.String(), Port: k.Port,
		Inside: newShownWay(k.Inside), Outside: newShownWay(k.Outside), Cluster: newShownBackends(k.Cluster), Local: newShownBackends(k.Local),
		Affinity: int(k.Affinity.Seconds()), Guarded: k.Guarded, SourceRanges: k.Admitted, where: k.Key.String(),
	}
	if named != nil {
		f.Service, f.PortName = named.Service.String(), named.PortName
	}
	return f
}

func newShownWay(w dataplane.Way) shownWay {
	switch {
	case w.Lost:
		return shownWay{Action: "lost"}
	case w.Proxy.IsValid():
		return shownWay{Action: "proxy", Proxy: &w.Proxy}
	}
	return shownWay{Action: w.Action.String(), Backends: w.Count}
}

func newShownBackends(all []dataplane.Slot) (out []shownBackend) {
	for _, b := range all {
		out = append(out, shownBackend{b.AddrPort, b.Remote, b.Hairpin})
	}
	return out
}
