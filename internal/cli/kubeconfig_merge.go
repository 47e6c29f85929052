package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func newKubeconfig() *cobra.Command {
	m := &merge{now: time.Now}
	cmd := &cobra.Command{
		Use: "merge", Short: "Add this cluster to your own kubeconfig", Args: noArguments,
		Long: `Adds the cluster, its user and a context to the kubeconfig that you use: the first file
of KUBECONFIG, else ~/.kube/config. What the file held stays, and a copy of it is kept
beside it. Entries of the same name are replaced, so that it can be run again after the
certificate has changed. The current context is set only where there is none.`,
		Example: `  portico kubeconfig merge
  portico kubeconfig merge --from jane.kubeconfig --context portico-jane`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := m.run()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), done)
			return err
		},
	}
	cmd.Flags().StringVar(&m.dataDir, "data-dir", defaultDataDir, "`folder` of the administrator's kubeconfig, as given to portico up")
	cmd.Flags().StringVar(&m.from, "from", "", "`file` to take instead, such as one of portico user create")
	cmd.Flags().StringVar(&m.context, "context", contextName, "`name` of the context, the cluster and the user in your file")
	return group(&cobra.Command{
		Use:     "kubeconfig",
		Short:   "Your own kubeconfig",
		Example: `  portico kubeconfig merge`,
	}, cmd)
}

// merge are the options of `portico kubeconfig merge`.
type merge struct {
	dataDir, from, context string
	now                    func() time.Time
}

// run says what it did.
func (m *merge) run() (string, error) {
	if m.context == "" {
		return "", errors.New("--context is empty; give the name that the context shall have")
	}
	from := m.from
	if from == "" {
		from = filepath.Join(m.dataDir, kubeconfigFile)
	}
	source, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return "", fmt.Errorf("%s can't be read: %w; name a kubeconfig with --from, or the folder of `portico up` with --data-dir", from, cause(err))
	}
	to, err := ownKubeconfig()
	if err != nil {
		return "", err
	}
	if same(from, to) {
		return "", fmt.Errorf("%s is the file that KUBECONFIG names, so there is nothing to merge; unset KUBECONFIG to add it to ~/.kube/config", from)
	}
	target, backup, err := m.keep(to)
	if err != nil {
		return "", err
	}
	if err := m.add(target, source, from); err != nil {
		return "", err
	}
	raw, err := clientcmd.Write(*target)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", to, err)
	}
	if err := replaceOwned(to, raw); err != nil {
		return "", err
	}
	done := fmt.Sprintf("Added the context %s to %s\n", m.context, to)
	if backup != "" {
		done += fmt.Sprintf("The file as it was: %s\n", backup)
	}
	if target.CurrentContext != m.context {
		done += fmt.Sprintf("Use it: kubectl config use-context %s\n", m.context)
	}
	return done, nil
}

// ownKubeconfig is where the person's kubectl writes new entries, through links.
func ownKubeconfig() (string, error) {
	var file string
	for _, f := range filepath.SplitList(os.Getenv(clientcmd.RecommendedConfigPathEnvVar)) {
		if f != "" {
			file = f
			break
		}
	}
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find your ~/.kube/config: %w; name the file by KUBECONFIG", err)
		}
		file = filepath.Join(home, clientcmd.RecommendedHomeDir, clientcmd.RecommendedFileName)
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return "", fmt.Errorf("find your kubeconfig: %w", err)
	}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		return real, nil // the link stays one
	}
	return file, nil
}

func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// keep reads the person's file and copies it; backup is "" where there is none yet.
func (m *merge) keep(to string) (config *clientcmdapi.Config, backup string, err error) {
	raw, err := os.ReadFile(to)
	if errors.Is(err, fs.ErrNotExist) {
		return clientcmdapi.NewConfig(), "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("your kubeconfig %s can't be read: %w", to, cause(err))
	}
	config, err = clientcmd.Load(raw)
	if err != nil {
		return nil, "", fmt.Errorf("your kubeconfig %s is damaged (%w); mend it or name another by KUBECONFIG; it was not changed", to, err)
	}
	// Relative paths in it stay as they are: it is written to the same place.
	for n := 0; ; n++ {
		backup = fmt.Sprintf("%s.before-portico-%s", to, m.now().Format("20060102-150405"))
		if n > 0 {
			backup += fmt.Sprintf(".%d", n)
		}
		err := newFile(backup, raw)
		if err == nil {
			break
		}
		if _, taken := os.Lstat(backup); taken != nil {
			return nil, "", fmt.Errorf("keep a copy of your kubeconfig: %w", err)
		}
	}
	return config, backup, matchOwner(backup, to)
}

// add puts the current context of source into target, under one name.
func (m *merge) add(target, source *clientcmdapi.Config, from string) error {
	context := source.Contexts[source.CurrentContext]
	if context == nil || source.Clusters[context.Cluster] == nil || source.AuthInfos[context.AuthInfo] == nil {
		return fmt.Errorf("%s has no current context with a cluster and a user; name another with --from", from)
	}
	// Files that it names by a relative path lie beside it, not beside the target.
	if err := clientcmd.ResolveLocalPaths(source); err != nil {
		return fmt.Errorf("find the files that %s names: %w", from, err)
	}
	added := context.DeepCopy()
	added.Cluster, added.AuthInfo, added.LocationOfOrigin = m.context, m.context, ""
	target.Contexts[m.context] = added
	target.Clusters[m.context] = source.Clusters[context.Cluster].DeepCopy()
	target.AuthInfos[m.context] = source.AuthInfos[context.AuthInfo].DeepCopy()
	if target.CurrentContext == "" {
		target.CurrentContext = m.context
	}
	return nil
}

// replaceOwned replaces a file that belongs to a person: whole or not at all, with
// its owner, also where root does it for them. It holds a key, so it is 0600.
func replaceOwned(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make the folder of %s: %w", file, cause(err))
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", file, cause(err))
	}
	defer os.Remove(f.Name()) // absent after the rename
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, cause(err))
	}
	if err := matchOwner(f.Name(), file); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// matchOwner gives a new file the owner of another, where that exists.
func matchOwner(file, like string) error {
	var st unix.Stat_t
	if unix.Stat(like, &st) != nil {
		return nil
	}
	if err := os.Chown(file, int(st.Uid), int(st.Gid)); err != nil && os.Geteuid() == 0 {
		return fmt.Errorf("give %s its owner: %w", file, cause(err))
	}
	return nil
}
