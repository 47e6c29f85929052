package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/apiserver/etcd/snapshot"
)

func newSnapshot() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save everything that the API stores, and restore it",
		Example: `  portico snapshot save /backup/portico.snapshot
  portico snapshot restore /backup/portico.snapshot --data-dir /var/lib/portico`,
	}
	cmd.PersistentFlags().StringVar(&dataDir, "data-dir", defaultDataDir, "`folder` of the store and the keys, as given to portico up")
	save := &cobra.Command{
		Use: "save FILE", Short: "Write all objects and the cluster's keys to FILE", Args: oneArgument("FILE"),
		Long: `Writes one file with all objects of the API and the cluster's keys, while Portico runs
or not. The file is complete and checked before it gets its name. Whoever can read it
can make certificates and tokens of this cluster: keep it as you keep those keys.

Images and the disks of guests are not in it. With --etcd-servers, save the etcd cluster
with etcdctl, and the folder pki of the data directory with it.`,
		Example: `  portico snapshot save /backup/portico-$(date +%F).snapshot
  portico snapshot save small.snapshot --data-dir ~/portico`,
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := saveSnapshot(cmd.Context(), dataDir, args[0], newLogger())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s holds revision %d, a database of %d MB\n", args[0], content.Meta.Revision, content.DBSize>>20)
			return err
		},
	}
	restore := &cobra.Command{
		Use: "restore FILE", Short: "Make a data directory from FILE", Args: oneArgument("FILE"),
		Long: `Makes the store and the keys of a data directory from what portico snapshot save wrote.
The data directory may not have a store yet. FILE is checked as a whole before anything
is written. Start portico up on it with the settings that the old one had: kubeconfigs
and tokens of then go on working. Clients that watch are told to begin anew.`,
		Example: `  portico snapshot restore /backup/portico.snapshot --data-dir /var/lib/portico
  portico up`,
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := restoreSnapshot(args[0], dataDir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s holds what %s held at %s; start it with `portico up --data-dir %[1]s`\n",
				dataDir, args[0], content.Meta.Created.Local().Format("2006-01-02 15:04:05"))
			return err
		},
	}
	return group(cmd, save, restore)
}

// saveSnapshot asks the Portico that runs on the data directory, or opens its store
// where none does.
func saveSnapshot(ctx context.Context, dataDir, file string, log *slog.Logger) (*snapshot.Content, error) {
	from := func(w io.Writer) error { return saveFromServer(ctx, dataDir, w) }
	if lockHolder(filepath.Join(dataDir, lockFile)) == 0 {
		if _, err := os.Stat(filepath.Join(dataDir, "etcd", "member")); err != nil {
			return nil, fmt.Errorf("--data-dir %s has no store of a Portico; give the folder that `portico up` was given", dataDir)
		}
		release, err := prepareDataDir(dataDir)
		if err != nil {
			return nil, err
		}
		defer release()
		from = func(w io.Writer) error { return saveFromStore(ctx, dataDir, w, log) }
	}
	return writeSnapshot(file, from)
}

// writeSnapshot gives file its name only when it is whole.
func writeSnapshot(file string, from func(io.Writer) error) (_ *snapshot.Content, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // 0600
	if err != nil {
		return nil, fmt.Errorf("%s can't be written: %w; name a file in a folder that you may write to", file, cause(err))
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := from(f); err != nil {
		return nil, fmt.Errorf("save a snapshot to %s: %w", file, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("check %s: %w", file, cause(err))
	}
	content, err := snapshot.Read(f, io.Discard)
	if err != nil {
		return nil, fmt.Errorf("%s came out damaged (%w); try again", file, err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("write %s: %w", file, cause(err))
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return nil, fmt.Errorf("write %s: %w; name a file, not a folder", file, cause(err))
	}
	return content, nil
}

func saveFromServer(ctx context.Context, dataDir string, w io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dataDir, kubeconfigFile))
	if err != nil {
		return fmt.Errorf("find the API of --data-dir %s: %w; wait until `portico up` says that it is ready", dataDir, cause(err))
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the API: %w", err)
	}
	stream, err := kube.CoreV1().RESTClient().Get().AbsPath(apiserver.SnapshotPath).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := io.Copy(w, stream); err != nil {
		return fmt.Errorf("the transfer broke off: %w", cause(err))
	}
	return nil
}

func saveFromStore(ctx context.Context, dataDir string, w io.Writer, log *slog.Logger) error {
	keys, err := snapshot.ReadKeys(dataDir)
	if err != nil {
		return err
	}
	store, err := etcd.StartEmbedded(ctx, filepath.Join(dataDir, "etcd"), log)
	if err != nil {
		return err
	}
	defer store.Close()
	return store.Save(ctx, w, keys, version())
}

func restoreSnapshot(file, dataDir string) (*snapshot.Content, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("%s can't be read: %w; give a file that `portico snapshot save` wrote", file, cause(err))
	}
	release, err := prepareDataDir(dataDir)
	if err != nil {
		return nil, err
	}
	defer release()
	content, err := etcd.Restore(file, dataDir)
	switch {
	case errors.Is(err, snapshot.ErrDamaged):
		return nil, fmt.Errorf("%s can't be restored: %w; nothing was changed: take another snapshot", file, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s can't be restored to %s: %w; run as the user who runs `portico up`", file, dataDir, err)
	case err != nil:
		return nil, fmt.Errorf("%s can't be restored: %w", file, err)
	}
	return content, nil
}

// snapshots gives the API server what it needs to save the embedded store; nil for an
// external one.
func snapshots(s store, dataDir string) func(context.Context, io.Writer) error {
	embedded, ok := s.(*etcd.Embedded)
	if !ok {
		return nil
	}
	return func(ctx context.Context, w io.Writer) error {
		keys, err := snapshot.ReadKeys(dataDir)
		if err != nil {
			return err
		}
		return embedded.Save(ctx, w, keys, version())
	}
}
