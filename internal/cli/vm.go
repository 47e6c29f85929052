package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/gorilla/websocket"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// client says which API the commands that need one talk to.
type client struct {
	kubeconfig, namespace string
}

func (c *client) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: KUBECONFIG, then "+defaultDataDir+"/kubeconfig)")
	cmd.PersistentFlags().StringVarP(&c.namespace, "namespace", "n", "", "`namespace` (default: the kubeconfig's)")
}

// load reads the kubeconfig and settles the namespace.
func (c *client) load() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	if own := defaultDataDir + "/kubeconfig"; c.kubeconfig == "" && os.Getenv("KUBECONFIG") == "" && readable(own) {
		rules.ExplicitPath = own
	}
	if rules.ExplicitPath != "" {
		if _, err := os.Stat(rules.ExplicitPath); err != nil {
			return nil, fmt.Errorf("the kubeconfig %s can't be read: %w; `portico up` writes one into its data directory", rules.ExplicitPath, cause(err))
		}
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no usable kubeconfig (%w); is `portico up` running here? Give its file with --kubeconfig or KUBECONFIG", err)
	}
	if c.namespace == "" {
		if c.namespace, _, err = loader.Namespace(); err != nil {
			return nil, fmt.Errorf("read the kubeconfig's namespace: %w", err)
		}
	}
	return config, nil
}

func newVM() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Start, stop and restart virtual machines, and open their consoles",
		Example: `  portico vm start example-vm -n example-namespace
  portico vm restart example-vm -n example-namespace
  portico vm console example-vm -n example-namespace     # Ctrl+] leaves`,
	}
	c.flags(cmd)
	for _, verb := range []struct{ name, short, done string }{
		{"start", "Start a stopped virtual machine", "was scheduled to start"},
		{"stop", "Shut a virtual machine down", "was scheduled to stop"},
		{"restart", "Shut a virtual machine down and start it again, with its present template", "was scheduled to restart"},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: verb.name + " NAME", Short: verb.short, Args: oneArgument("NAME"),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := c.verb(cmd.Context(), args[0], verb.name); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "VM %s %s\n", args[0], verb.done)
				return err
			},
		})
	}
	cmd.AddCommand(&cobra.Command{
		Use: "console NAME", Short: "Open the serial console; Ctrl+] leaves it", Args: oneArgument("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.console(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	})
	return group(cmd)
}

// subresource is the path of a verb on a machine, as virtctl calls it.
func (c *client) subresource(kind, name, verb string) string {
	return "/apis/" + kubevirtv1.SubresourceStorageGroupVersion.String() + "/namespaces/" + url.PathEscape(c.namespace) +
		"/" + kind + "/" + url.PathEscape(name) + "/" + verb
}

func (c *client) verb(ctx context.Context, name, verb string) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("use the kubeconfig: %w", err)
	}
	target := strings.TrimSuffix(config.Host, "/") + c.subresource("virtualmachines", name, verb)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, strings.NewReader("{}"))
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s VM %s: %w", verb, name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusAccepted {
		return nil
	}
	return fmt.Errorf("%s VM %s/%s: %s", verb, c.namespace, name, statusMessage(resp))
}

// statusMessage is what the API says of a refused request.
func statusMessage(resp *http.Response) string {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return resp.Status
	}
	var status struct{ Message string }
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return status.Message
	}
	return resp.Status
}

// escape leaves the console: Ctrl+], as telnet and virtctl have it.
const escape = 0x1d

func (c *client) console(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	ws, err := c.dialConsole(ctx, config, name)
	if err != nil {
		return err
	}
	defer ws.Close()
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(os.Stderr, "Connected to the console of %s/%s; Ctrl+] leaves it.\r\n", c.namespace, name)
		state, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("switch the terminal to raw mode: %w", err)
		}
		defer term.Restore(int(f.Fd()), state) //nolint:errcheck // nothing is left to do about it
	}
	ended := make(chan error, 2)
	go func() { ended <- toConsole(ws, in) }()
	go func() { ended <- fromConsole(ws, out) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	if errors.Is(err, io.EOF) || websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseAbnormalClosure) {
		return nil
	}
	return err
}

func (c *client) dialConsole(ctx context.Context, config *rest.Config, name string) (*websocket.Conn, error) {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("use the kubeconfig: %w", err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig's server %q: %w", config.Host, err)
	}
	target.Scheme = "wss"
	target.Path = strings.TrimSuffix(target.Path, "/") + c.subresource("virtualmachineinstances", name, "console")
	header := http.Header{}
	if config.BearerToken != "" {
		header.Set("Authorization", "Bearer "+config.BearerToken)
	}
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: []string{"plain.kubevirt.io"}}
	ws, resp, err := dialer.DialContext(ctx, target.String(), header)
	if err != nil && resp != nil {
		return nil, fmt.Errorf("open the console of %s/%s: %s", c.namespace, name, statusMessage(resp))
	}
	if err != nil {
		return nil, fmt.Errorf("open the console of %s/%s: %w", c.namespace, name, err)
	}
	return ws, nil
}

func toConsole(ws *websocket.Conn, in io.Reader) error {
	buf := make([]byte, 1024)
	for {
		n, err := in.Read(buf)
		for i, b := range buf[:n] {
			if b == escape {
				n, err = i, io.EOF
				break
			}
		}
		if n > 0 {
			if err := ws.WriteMessage(websocket.BinaryMessage, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func fromConsole(ws *websocket.Conn, out io.Writer) error {
	for {
		_, r, err := ws.NextReader()
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			return err
		}
	}
}
