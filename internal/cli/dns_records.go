package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/records"
)

func newDNSRecords() *cobra.Command {
	c := &client{}
	var domain string
	cmd := &cobra.Command{
		Use:   "records",
		Short: "List the records of the cluster's Services and virtual machines",
		Long: `List the DNS records that follow from the API's Services, EndpointSlices and pods of
virtual machines, as every node's server computes them: a server that answers something
else hasn't seen the API's latest yet. Without --namespace all namespaces are listed.`,
		Example: `  portico dns records
  portico dns records -n default
  portico dns records | grep ' SRV '`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			namespace := c.namespace // load would settle on the kubeconfig's
			config, err := c.load()
			if err != nil {
				return err
			}
			config.WarningHandler = rest.NoWarnings{}
			kube, err := kubernetes.NewForConfig(config)
			if err != nil {
				return fmt.Errorf("the kubeconfig can't be used: %w", err)
			}
			return listRecords(cmd.Context(), kube, namespace, domain, cmd.OutOrStdout())
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&domain, "cluster-domain", "cluster.local", "DNS `domain` of Services")
	return cmd
}

func listRecords(ctx context.Context, kube kubernetes.Interface, namespace, domain string, out io.Writer) error {
	zone, err := records.ParseName(domain)
	if err != nil {
		return fmt.Errorf("--cluster-domain: %w", err)
	}
	if namespace != metav1.NamespaceAll {
		if err := namespaceIsThere(ctx, kube.CoreV1(), namespace); err != nil {
			return err
		}
	}
	services, err := kube.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the Services: %w", err)
	}
	endpoints, err := kube.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the EndpointSlices: %w", err)
	}
	of := slicesByService(endpoints.Items)
	var lines []string
	for i := range services.Items {
		svc := catalog.FromService(&services.Items[i])
		for _, owner := range records.OfService(zone, svc, of[svc.Name]) {
			if !owner.Empty() {
				lines = append(lines, strings.Split(owner.String(), "\n")...)
			}
		}
	}
	machines, err := machineRecords(ctx, kube, namespace, domain)
	if err != nil {
		return err
	}
	for _, owner := range machines {
		lines = append(lines, strings.Split(owner.String(), "\n")...)
	}
	slices.Sort(lines)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tTYPE\tDATA")
	for _, line := range lines {
		fields := strings.SplitN(line, " ", 3)
		fmt.Fprintln(w, strings.Join(fields, "\t"))
	}
	return w.Flush()
}

func machineRecords(ctx context.Context, kube kubernetes.Interface, namespace, domain string) ([]records.Owner, error) {
	list, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: records.MachineLabel})
	if err != nil {
		return nil, fmt.Errorf("list the pods of virtual machines: %w", err)
	}
	var pods []*records.Pod
	for i := range list.Items {
		if p := records.FromPod(&list.Items[i]); p != nil {
			pods = append(pods, p)
		}
	}
	return records.OfMachines(domain, pods)
}

func slicesByService(all []discoveryv1.EndpointSlice) map[types.NamespacedName][]*catalog.Slice {
	out := map[types.NamespacedName][]*catalog.Slice{}
	for i := range all {
		if s := catalog.FromSlice(&all[i]); s != nil {
			out[s.Service] = append(out[s.Service], s)
		}
	}
	return out
}
