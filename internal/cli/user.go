package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"portico.dev/portico/internal/apiserver/certs"
)

func newUser() *cobra.Command {
	u := &newUserOptions{}
	create := &cobra.Command{
		Use: "create NAME", Short: "Write a kubeconfig that proves to be NAME", Args: oneArgument("NAME"),
		Long: `Writes a kubeconfig with a client certificate that is good for a year. It proves who
somebody is; what that user may do is said by roles and bindings, also later. A
certificate can't be taken back before its end: take its bindings away instead, and
give system:masters, which needs none, to nobody.`,
		Example: `  portico user create jane --group developers
  portico kubectl create rolebinding jane --clusterrole=edit --user=jane -n example-namespace
  portico user create system:node:b --group system:nodes --server https://192.0.2.10:6443`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, end, err := u.create(args[0])
			if err != nil {
				return err
			}
			if slices.Contains(u.groups, adminGroup) {
				fmt.Fprintf(cmd.ErrOrStderr(), "Warning: members of %s may do everything, and nobody can take that back for a year\n", adminGroup)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is the kubeconfig of %s until %s\n", file, args[0], end.Format(time.DateOnly))
			return err
		},
	}
	create.Flags().StringVar(&u.dataDir, "data-dir", defaultDataDir, "`folder` of the keys, as given to portico up")
	create.Flags().StringArrayVar(&u.groups, "group", nil, "`name` of a group that the user is in; may be given several times")
	create.Flags().StringVar(&u.output, "output", "", "`file` to write (default: NAME.kubeconfig)")
	create.Flags().StringVar(&u.server, "server", "", "`URL` of the API for this user (default: that of the administrator's kubeconfig)")
	return group(&cobra.Command{
		Use:     "user",
		Short:   "Users of the API",
		Example: `  portico user create jane --group developers`,
	}, create)
}

// newUserOptions are those of `portico user create`.
type newUserOptions struct {
	dataDir, output, server string
	groups                  []string
}

func (u *newUserOptions) create(name string) (file string, end time.Time, err error) {
	if err := checkIdentity("the name", name); err != nil {
		return "", end, err
	}
	for _, g := range u.groups {
		if err := checkIdentity("--group", g); err != nil {
			return "", end, err
		}
	}
	server, err := u.serverURL()
	if err != nil {
		return "", end, err
	}
	if file = u.output; file == "" {
		file = strings.ReplaceAll(name, "/", "-") + ".kubeconfig"
	}
	authority, err := openAuthority(u.dataDir)
	if err != nil {
		return "", end, err
	}
	cert, key, err := authority.Client(name, u.groups...)
	if err != nil {
		return "", end, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[contextName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: authority.PEM()}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: name}
	config.CurrentContext = contextName
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return "", end, fmt.Errorf("encode the kubeconfig: %w", err)
	}
	return file, authority.LeafEnd(), newFile(file, raw)
}

// newFile writes a file that isn't there yet, for its owner alone.
func newFile(file string, content []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already; remove it, or name another file with --output", file)
	}
	if err != nil {
		return fmt.Errorf("--output %s can't be written: %w; name a file in a folder that you may write to", file, cause(err))
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(file)
		return fmt.Errorf("write %s: %w", file, cause(err))
	}
	return nil
}

// maxIdentity is the longest common name or organization of a certificate
// (ub-common-name, ub-organization-name: RFC 5280, appendix A.1).
const maxIdentity = 64

func checkIdentity(what, name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return fmt.Errorf("%s is empty; give one", what)
	case len(name) > maxIdentity:
		return fmt.Errorf("%s %q is %d bytes long; a certificate takes at most %d", what, name, len(name), maxIdentity)
	case strings.ContainsFunc(name, unicode.IsControl) || name != strings.TrimSpace(name):
		return fmt.Errorf("%s %q has spaces around it or control characters in it; give it without", what, name)
	}
	return nil
}

// openAuthority reads the authority of a data directory; it never makes one.
func openAuthority(dataDir string) (*certs.Authority, error) {
	pki := filepath.Join(dataDir, "pki")
	for _, name := range []string{"ca.crt", "ca.key"} {
		f, err := os.Open(filepath.Join(pki, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("--data-dir %s has no keys of a Portico; give the folder that `portico up` was given, on the host where it runs", dataDir)
		case err != nil:
			return nil, fmt.Errorf("--data-dir %s: its keys can't be read: %w; run as the user who runs `portico up`", dataDir, cause(err))
		}
		f.Close()
	}
	return certs.Open(pki, time.Now)
}

func (u *newUserOptions) serverURL() (string, error) {
	if u.server != "" {
		at, err := url.Parse(u.server)
		if err != nil || at.Scheme != "https" || at.Host == "" {
			return "", fmt.Errorf("--server %q is not a URL of the API; write it like https://192.0.2.10:6443", u.server)
		}
		return u.server, nil
	}
	file := filepath.Join(u.dataDir, kubeconfigFile)
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return "", fmt.Errorf("find the API's address in %s: %w; start `portico up` once, or give --data-dir or --server", file, cause(err))
	}
	if context := config.Contexts[config.CurrentContext]; context != nil && config.Clusters[context.Cluster] != nil {
		return config.Clusters[context.Cluster].Server, nil
	}
	return "", fmt.Errorf("%s names no API server; give its URL with --server", file)
}
