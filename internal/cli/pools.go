package cli

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/metallb"
)

// poolStatus is what `portico pools` says of one pool, and with -o json its shape.
type poolStatus struct {
	Name       string         `json:"name"`
	Addresses  []string       `json:"addresses"`
	AutoAssign bool           `json:"autoAssign"`
	Assigned   int64          `json:"assigned"`
	Free       int64          `json:"free"` // at most 2^63-1
	Given      []givenAddress `json:"given"`
	Problems   []string       `json:"problems"`
}

type givenAddress struct {
	Address  netip.Addr `json:"address"`
	Services []string   `json:"services"` // namespace/name; several share it
}

func newPools() *cobra.Command {
	c := &client{}
	var output string
	cmd := &cobra.Command{
		Use:   "pools",
		Short: "List address pools of load balancers, and who has which address",
		Example: `  portico pools
  portico pools -o json | jq '.[] | select(.free == 0) | .name'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output %q is unknown; choose one of table, json", output)
			}
			list, err := listPools(cmd.Context(), c)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printPools(cmd.OutOrStdout(), list)
		},
	}
	c.flags(cmd)
	cmd.PersistentFlags().Lookup("namespace").Hidden = true // all namespaces are looked at
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`format`: table or json")
	return cmd
}

func listPools(ctx context.Context, c *client) ([]*poolStatus, error) {
	dyn, err := c.dynamic()
	if err != nil {
		return nil, err
	}
	_, kube, err := c.kube()
	if err != nil {
		return nil, err
	}
	config, err := metallb.Get(ctx, dyn)
	if err != nil {
		return nil, poolsUnread(err)
	}
	services, err := kube.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	reserved, err := clusterRanges(ctx, kube)
	if err != nil {
		return nil, err
	}
	set, faults := pools.Parse(config, reserved...)
	allocator := pools.NewAllocator(set)
	slices.SortFunc(services.Items, func(a, b corev1.Service) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i := range services.Items {
		if pools.Ours(&services.Items[i]) {
			allocator.Hold(&services.Items[i])
		}
	}
	counts := allocator.Counts()
	list := []*poolStatus{}
	for _, p := range config.Pools {
		n := counts[p.Name]
		s := &poolStatus{
			Name: p.Name, Addresses: p.Spec.Addresses, AutoAssign: p.Spec.AutoAssign == nil || *p.Spec.AutoAssign,
			Assigned: n.AssignedIPv4 + n.AssignedIPv6, Free: n.AvailableIPv4 + min(n.AvailableIPv6, math.MaxInt64-n.AvailableIPv4),
			Given: []givenAddress{}, Problems: []string{},
		}
		for _, addr := range allocator.Given() {
			if of := set.Find(addr); of == nil || of.Name != p.Name {
				continue
			}
			given := givenAddress{Address: addr}
			for _, name := range allocator.Tenants(addr) {
				given.Services = append(given.Services, name.String())
			}
			s.Given = append(s.Given, given)
		}
		for _, f := range faults {
			if f.Pool == p.Name {
				s.Problems = append(s.Problems, f.String())
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// clusterRanges are the addresses that no pool can give, as the controller reads them. What
// a foreign cluster hasn't got, or this user may not see, is the controller's to say.
func clusterRanges(ctx context.Context, kube kubernetes.Interface) ([]pools.Reserved, error) {
	var out []pools.Reserved
	hidden := func(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) }
	settings, err := bootstrap.ReadSettings(ctx, kube)
	if err != nil && !hidden(err) {
		return nil, err
	}
	for _, of := range [...]struct{ ranges, what string }{{settings.ClusterCIDR, podAddresses}, {settings.GuestCIDR, guestAddresses}} {
		for _, cidr := range strings.Split(of.ranges, ",") {
			if prefix, err := netip.ParsePrefix(cidr); err == nil {
				out = append(out, pools.Reserved{Prefix: prefix, What: of.what})
			}
		}
	}
	cidrs, err := kube.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil && !hidden(err) {
		return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	for i := range cidrs.Items {
		out = append(out, pools.OfServiceCIDR(&cidrs.Items[i])...)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil && !hidden(err) {
		return nil, fmt.Errorf("list Nodes: %w", err)
	}
	for i := range nodes.Items {
		out = append(out, pools.OfNode(&nodes.Items[i])...)
	}
	return out, nil
}

func printPools(out io.Writer, list []*poolStatus) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "There are no pools; make one with `portico pool add NAME RANGE...`.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tADDRESSES\tASSIGNED\tFREE\tSERVICES")
	for _, p := range list {
		free := strconv.FormatInt(p.Free, 10)
		if p.Free >= math.MaxInt64-p.Assigned {
			free = "more than enough"
		}
		name := p.Name
		if !p.AutoAssign {
			name += " (by request)"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t\n", name, strings.Join(p.Addresses, " "), p.Assigned, free)
		for _, g := range p.Given {
			fmt.Fprintf(w, "\t%s\t\t\t%s\n", g.Address, strings.Join(g.Services, " "))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range list {
		for _, problem := range p.Problems {
			fmt.Fprintln(out, "! "+problem)
		}
	}
	return nil
}
