package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/controllers/system"
)

// defaultTTL is kubeadm's: long enough for a day's work.
const defaultTTL = 24 * time.Hour

func newToken() *cobra.Command {
	c := &client{}
	n := &newTokenOptions{client: c}
	create := &cobra.Command{
		Use: "create", Short: "Make a token, and print the command that joins a host with it", Args: noArguments,
		Long: `Makes a token by which hosts may join this cluster as nodes until its time is over, and
prints the complete command for them. The command's hash pins this cluster's
authority, or several hashes each of those that it has: the host that joins sends the
token to nobody else. A token is a secret: the command has it in the environment, for
arguments can be read by everybody on that host.`,
		Example: `  portico token create
  portico token create --ttl 1h --description "rack 3"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.create(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	create.Flags().DurationVar(&n.ttl, "ttl", defaultTTL, "`time` for which it is good; 0s: for ever")
	create.Flags().StringVar(&n.description, "description", "", "`text` for `portico token list`")
	create.Flags().StringVar(&n.server, "server", "", "`URL` by which the host reaches the API (default: an advertised address)")
	list := &cobra.Command{
		Use: "list", Short: "List the tokens", Args: noArguments, Example: `  portico token list`,
		RunE: func(cmd *cobra.Command, _ []string) error { return listTokens(cmd.Context(), c, cmd.OutOrStdout()) },
	}
	remove := &cobra.Command{
		Use: "delete ID", Short: "Take a token back; nodes that joined by it stay", Args: oneArgument("ID"), Example: `  portico token delete abcdef`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return deleteToken(cmd.Context(), c, args[0], cmd.OutOrStdout())
		},
	}
	cmd := &cobra.Command{
		Use: "token", Short: "Tokens by which hosts join as nodes",
		Example: `  portico token create      # on the first host; prints a command
  PORTICO_TOKEN=... portico join https://192.0.2.2:6443 --ca-cert-hash ...     # on the others`,
	}
	c.flags(cmd)
	cmd.PersistentFlags().Lookup("namespace").Hidden = true // tokens are in kube-system
	return group(cmd, create, list, remove)
}

// newTokenOptions are those of `portico token create`.
type newTokenOptions struct {
	client              *client
	ttl                 time.Duration
	description, server string
}

func (n *newTokenOptions) create(ctx context.Context, out, notes io.Writer) error {
	if n.ttl < 0 {
		return fmt.Errorf("--ttl %v is over before it begins; give a time such as 24h", n.ttl)
	}
	config, kube, err := n.client.kube()
	if err != nil {
		return err
	}
	hashes, err := authorityHashes(config)
	if err != nil {
		return err
	}
	server := n.server
	if server != "" {
		if _, err := apiURL("--server", server); err != nil {
			return err
		}
	} else if server, err = reachableURL(ctx, kube, config); err != nil {
		return err
	}
	token := bootstrap.NewToken()
	var end time.Time
	if n.ttl > 0 {
		end = time.Now().Add(n.ttl)
	}
	if _, err := kube.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, token.Object(end, n.description), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	until := "until " + end.Format(time.DateTime)
	if end.IsZero() {
		until = "for ever"
	}
	fmt.Fprintf(notes, "Run this as root on the host that is to join; it is good %s:\n", until)
	texts := make([]string, len(hashes))
	for i, h := range hashes {
		texts[i] = h.String()
	}
	_, err = fmt.Fprintf(out, "%s=%s portico join %s --ca-cert-hash %s\n", tokenVariable, token, server, strings.Join(texts, ","))
	return err
}

// kube is a client of the API that the flags lead to.
func (c *client) kube() (*rest.Config, kubernetes.Interface, error) {
	config, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	config.WarningHandler = rest.NoWarnings{}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("the kubeconfig can't be used: %w", err)
	}
	return config, kube, nil
}

func authorityHashes(config *rest.Config) ([]bootstrap.Hash, error) {
	raw := config.CAData
	if len(raw) == 0 && config.CAFile != "" {
		var err error
		if raw, err = os.ReadFile(config.CAFile); err != nil {
			return nil, fmt.Errorf("read the cluster's authority: %w", err)
		}
	}
	hashes, err := bootstrap.HashesOfPEM(raw)
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig has no authority whose hash hosts could check (%w); use the one that `portico up` wrote", err)
	}
	return hashes, nil
}

func apiURL(flag, text string) (*url.URL, error) {
	at, err := bootstrap.ParseServer(text)
	if err != nil {
		return nil, fmt.Errorf("%s %q %w", flag, text, err)
	}
	return at, nil
}

// reachableURL is how other hosts reach the API: as the kubeconfig does, unless that is
// by loopback, or else by an advertised address.
func reachableURL(ctx context.Context, kube kubernetes.Interface, config *rest.Config) (string, error) {
	at, err := url.Parse(config.Host)
	if err != nil {
		return "", fmt.Errorf("the kubeconfig's server %q is no URL: %w", config.Host, err)
	}
	if a, err := netip.ParseAddr(at.Hostname()); at.Hostname() != "localhost" && (err != nil || !a.IsLoopback()) {
		return config.Host, nil
	}
	advertised, err := advertisedAPIs(ctx, kube)
	if err != nil {
		return "", err
	}
	if len(advertised) == 0 {
		return "", errors.New("the API listens on its own host only; start `portico up` with --advertise-address and an address that other hosts reach, or give the API's URL with --server")
	}
	return "https://" + advertised[0].String(), nil
}

// advertisedAPIs are the endpoints of the Service kubernetes that aren't nodes' own
// addresses of their pod ranges, which other hosts can't count on; IPv4 first.
func advertisedAPIs(ctx context.Context, kube kubernetes.Interface) ([]netip.AddrPort, error) {
	slicesOf, err := kube.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{discoveryv1.LabelServiceName: system.APIService}.String(),
	})
	if err != nil {
		return nil, fmt.Errorf("find the API's addresses: %w", err)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var pods []netip.Prefix
	for _, n := range nodes.Items {
		for _, text := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				pods = append(pods, p)
			}
		}
	}
	var out []netip.AddrPort
	for _, s := range slicesOf.Items {
		for _, e := range s.Endpoints {
			for _, text := range e.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil || len(s.Ports) == 0 || s.Ports[0].Port == nil ||
					slices.ContainsFunc(pods, func(p netip.Prefix) bool { return p.Contains(a) }) {
					continue
				}
				out = append(out, netip.AddrPortFrom(a, uint16(*s.Ports[0].Port)))
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()), a.Compare(b))
	})
	return out, nil
}

func listTokens(ctx context.Context, c *client, out io.Writer) error {
	_, kube, err := c.kube()
	if err != nil {
		return err
	}
	list, err := kube.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String(),
	})
	if err != nil {
		return fmt.Errorf("list tokens: %w", err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tGOOD UNTIL\tDESCRIPTION")
	for i := range list.Items {
		t, err := bootstrap.Read(&list.Items[i])
		if err != nil {
			continue // it lets nobody in
		}
		until := "for ever"
		if !t.End.IsZero() {
			until = t.End.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.ID, until, t.Description)
	}
	return w.Flush()
}

func deleteToken(ctx context.Context, c *client, id string, out io.Writer) error {
	id, _, _ = strings.Cut(id, ".") // the whole token will do
	name, err := bootstrap.SecretName(id)
	if err != nil {
		return err
	}
	_, kube, err := c.kube()
	if err != nil {
		return err
	}
	err = kube.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no token %s; `portico token list` shows those there are", id)
	}
	if err != nil {
		return fmt.Errorf("delete token %s: %w", id, err)
	}
	_, err = fmt.Fprintf(out, "Token %s lets nobody in any more; nodes that joined by it stay\n", id)
	return err
}
