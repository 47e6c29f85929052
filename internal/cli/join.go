package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/durable"
)

const (
	// identityFolder is where a node that has joined keeps who it is.
	identityFolder = "identity"
	// joinTimeout is how long a person may wait for the certificate.
	joinTimeout = time.Minute
)

func homeOf(dataDir string) bootstrap.Home {
	return bootstrap.Home(filepath.Join(dataDir, identityFolder))
}

func newJoin() *cobra.Command {
	j := &joinRun{o: &options{}}
	cmd := &cobra.Command{
		Use:   "join URL",
		Short: "Join this host to a cluster as a node, and run its agent",
		Long: `Makes this host a node of the cluster whose API is at URL, and runs its agent. The hash
pins the cluster's authority: a server that can't show it gets nothing from this host.
The token then gets this host a certificate for its own name, which it keeps in its
data directory and renews; ranges and the cluster's domain are learned from the API.
A host that has joined needs no token to start again: ` + "`portico agent`" + ` does, or the same
command. ` + "`portico leave`" + ` ends it.`,
		Example: `  PORTICO_TOKEN=abcdef.0123456789abcdef portico join https://192.0.2.2:6443 --ca-cert-hash sha256:...
  portico join https://192.0.2.2:6443 --token-file /run/token --ca-cert-hash sha256:... --node-name b`,
		Args: oneArgument("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := j.o.readConfig(cmd); err != nil {
				return err
			}
			j.server = args[0]
			return j.run(cmd.Context(), newLogger())
		},
	}
	j.o.nodeFlags(cmd.Flags())
	hideSettings(cmd)
	cmd.Flags().StringVar(&j.token, "token", "", "`token` that `portico token create` printed; everybody on this host sees it in ps, unlike $"+tokenVariable+" and --token-file")
	cmd.Flags().StringVar(&j.tokenFile, "token-file", "", "`file` with the token; - is standard input")
	cmd.Flags().StringSliceVar(&j.hashes, "ca-cert-hash", nil, "`hash` of the cluster's authority, likewise: sha256:...; of several one must fit")
	return cmd
}

// hideSettings leaves flags out of the help whose values come from the cluster.
func hideSettings(cmd *cobra.Command) {
	for _, name := range []string{"service-cidr", "cluster-cidr", "guest-cidr", "cluster-domain"} {
		cmd.Flags().Lookup(name).Hidden = true
	}
}

// joinRun is one run of `portico join`.
type joinRun struct {
	o         *options
	server    string
	token     string
	tokenFile string
	variable  string // what the environment said
	hashes    []string
}

func (j *joinRun) run(ctx context.Context, log *slog.Logger) error {
	at, err := apiURL("the URL", j.server)
	if err != nil {
		return err
	}
	j.server = at.String()
	// What this process starts is not to have it.
	j.variable = os.Getenv(tokenVariable)
	if err := os.Unsetenv(tokenVariable); err != nil {
		return err
	}
	if err := needRoot(); err != nil {
		return err
	}
	given := j.o.nodeName
	if err := j.o.complete(); err != nil {
		return err
	}
	release, err := j.o.hold()
	if err != nil {
		return err
	}
	defer release()
	if _, err := os.Stat(filepath.Join(j.o.dataDir, "pki")); err == nil {
		return fmt.Errorf("--data-dir %s is that of a `portico up`, whose host is a node already; give this one a folder of its own", j.o.dataDir)
	}
	home := homeOf(j.o.dataDir)
	member, err := home.Read()
	if err != nil {
		return err
	}
	if member != nil {
		if err := j.again(home, member, given, log); err != nil {
			return err
		}
	}
	if member == nil || j.ended(home) {
		if member, err = j.bootstrap(ctx, at, home, log); err != nil {
			return err
		}
	}
	return runMember(ctx, j.o, home, member, log)
}

func (j *joinRun) ended(home bootstrap.Home) bool {
	end, err := home.Ended(time.Now())
	return err != nil || !end.IsZero()
}

// again checks what was given against what this host has joined.
func (j *joinRun) again(home bootstrap.Home, member *bootstrap.Member, given string, log *slog.Logger) error {
	if given != "" && given != member.Node {
		return fmt.Errorf("this host has joined as node %s; run `portico leave` before it joins as %s", member.Node, given)
	}
	j.o.nodeName = member.Node
	if len(j.hashes) > 0 {
		want, err := bootstrap.ParseHashes(j.hashes)
		if err != nil {
			return fmt.Errorf("--ca-cert-hash %w", err)
		}
		raw, err := home.Authority()
		if err != nil {
			return err
		}
		if has, err := bootstrap.HashOfPEM(raw); err != nil || !slices.Contains(want, has) {
			return fmt.Errorf("this host is node %s of another cluster (authority %s); run `portico leave` first", member.Node, has)
		}
	}
	if j.server != member.Server {
		member.Server = j.server // the same authority vouches for it, or it isn't talked to
		if err := keepMember(home, member); err != nil {
			return err
		}
	}
	log.Info("This host has joined already", "node", member.Node, "server", member.Server)
	return nil
}

// bootstrap gets this host its identity.
func (j *joinRun) bootstrap(ctx context.Context, at *url.URL, home bootstrap.Home, log *slog.Logger) (*bootstrap.Member, error) {
	if len(j.hashes) == 0 {
		return nil, errors.New("--ca-cert-hash is missing; run `portico token create` on the server, which prints the whole command")
	}
	token, err := j.readToken()
	if err != nil {
		return nil, err
	}
	hashes, err := bootstrap.ParseHashes(j.hashes)
	if err != nil {
		return nil, fmt.Errorf("--ca-cert-hash %w", err)
	}
	authority, err := bootstrap.FetchAuthority(ctx, at, hashes...)
	if err != nil {
		return nil, err
	}
	kube, err := bootstrap.Client(at, token, authority, "portico-join/"+version())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, joinTimeout, fmt.Errorf("no answer in %v", joinTimeout))
	defer cancel()
	member := &bootstrap.Member{Server: j.server, Node: j.o.nodeName}
	if member.Settings, err = bootstrap.ReadSettings(ctx, kube); err != nil {
		return nil, explainJoin(err, member.Node)
	}
	// What this host can't be is found before the cluster hears of it.
	if err := j.o.use(member); err != nil {
		return nil, err
	}
	if err := checkHost(j.o, log); err != nil {
		return nil, err
	}
	client, err := bootstrap.RequestClient(ctx, kube, member.Node)
	if err != nil {
		return nil, explainJoin(err, member.Node)
	}
	if err := home.Create(*member, authority, client); err != nil {
		return nil, err
	}
	log.Info("This host is a node", "node", member.Node, "server", member.Server)
	return member, keepMember(home, member)
}

// tokenVariable is where the token is looked for without a flag. Arguments are everybody's
// to read, the environment is root's.
const tokenVariable = "PORTICO_TOKEN"

// readToken finds the token.
func (j *joinRun) readToken() (bootstrap.Token, error) {
	from, text := "--token", j.token
	switch {
	case j.token != "" && j.tokenFile != "":
		return bootstrap.Token{}, errors.New("--token and --token-file are both given; one of them is enough")
	case j.tokenFile != "":
		from = "--token-file " + j.tokenFile
		name := j.tokenFile
		if name == "-" {
			name = "/dev/stdin"
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return bootstrap.Token{}, fmt.Errorf("--token-file %s can't be read: %w", j.tokenFile, cause(err))
		}
		text = strings.TrimSpace(string(raw))
	case j.token == "":
		from, text = tokenVariable, j.variable
		if text == "" {
			return bootstrap.Token{}, fmt.Errorf("the token is missing: set %s, or give --token-file or --token; `portico token create` on the server prints the whole command", tokenVariable)
		}
	}
	token, err := bootstrap.ParseToken(text)
	if err != nil {
		return token, fmt.Errorf("%s: %w", from, err)
	}
	return token, nil
}

// explainJoin says what a person can do.
func explainJoin(err error, node string) error {
	var denied *bootstrap.DeniedError
	switch {
	case errors.As(err, &denied):
		return fmt.Errorf("this host can't join as node %s: %w", node, denied)
	case apierrors.IsUnauthorized(err):
		return errors.New("the server doesn't accept the token: it is wrong, was deleted, or its time is over; `portico token create` on the server makes a new one")
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token isn't one for nodes: %w; `portico token create` on the server makes one", err)
	}
	return err
}

// keepMember notes a member, and leads `portico status` and `portico kubectl` on this
// host to the API with the node's rights.
func keepMember(home bootstrap.Home, m *bootstrap.Member) error {
	if err := home.Note(*m); err != nil {
		return err
	}
	own := home.Config(m)
	config := clientcmdapi.NewConfig()
	config.Clusters[contextName] = &clientcmdapi.Cluster{Server: own.Host, CertificateAuthority: own.CAFile}
	config.AuthInfos[contextName] = &clientcmdapi.AuthInfo{ClientCertificate: own.CertFile, ClientKey: own.KeyFile}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: contextName}
	config.CurrentContext = contextName
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode the kubeconfig: %w", err)
	}
	return durable.WriteFile(filepath.Join(filepath.Dir(string(home)), kubeconfigFile), raw)
}

// use takes a member's name and its cluster's settings for this run.
func (o *options) use(m *bootstrap.Member) error {
	o.nodeName = m.Node
	o.serviceCIDR, o.clusterCIDR = m.Settings.ServiceCIDR, m.Settings.ClusterCIDR
	o.guestCIDR, o.clusterDomain = m.Settings.GuestCIDR, m.Settings.ClusterDomain
	if err := o.complete(); err != nil {
		return fmt.Errorf("the cluster's settings can't be used here: %w", err)
	}
	return nil
}
