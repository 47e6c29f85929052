package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"portico.dev/portico/internal/vm/image"
)

func newImage() *cobra.Command {
	i := &images{}
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Images that guests boot from, in this host's store",
		Example: `  portico image import guest.tar
  portico image import guest.tar --name example.com/guest:v1
  portico image list`,
	}
	cmd.PersistentFlags().StringVar(&i.dataDir, "data-dir", defaultDataDir, "`folder` of the store, as given to portico up")
	var name string
	importing := &cobra.Command{
		Use: "import FILE", Short: "Take an OCI archive or a `docker save` file into the store", Args: oneArgument("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, err := i.take(cmd.Context(), args[0], name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "imported %s (%s)\n", img.Ref, img.Digest)
			return err
		},
	}
	importing.Flags().StringVar(&name, "name", "", "`reference` to store it under (default: the one in the archive)")
	list := &cobra.Command{
		Use: "list", Short: "List the images", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return i.list(cmd.OutOrStdout()) },
	}
	remove := &cobra.Command{
		Use: "remove REFERENCE", Short: "Remove an image; guests that run from it go on", Args: oneArgument("REFERENCE"),
		RunE: func(_ *cobra.Command, args []string) error {
			if !i.exist() {
				return fmt.Errorf("remove the image %s: %w; `portico image list` shows those that are", args[0], image.ErrNotFound)
			}
			store, err := image.Open(i.dir())
			if err != nil {
				return err
			}
			return store.Remove(args[0])
		},
	}
	return group(cmd, importing, list, remove)
}

// images is the store of a data directory.
type images struct{ dataDir string }

func (i *images) dir() string { return filepath.Join(i.dataDir, "images") }

// exist tells whether there is a store; looking makes none.
func (i *images) exist() bool {
	_, err := os.Stat(i.dir())
	return err == nil
}

// take imports an archive; a store that was made for one that can't be read goes
// again.
func (i *images) take(ctx context.Context, file, name string) (image.Image, error) {
	if err := checkArchive(file); err != nil {
		return image.Image{}, err
	}
	fresh := !i.exist()
	undo, err := makeFolder(i.dir())
	if err != nil {
		return image.Image{}, fmt.Errorf("the image store %s can't be made: %w; choose another folder with --data-dir", i.dir(), cause(err))
	}
	store, err := image.Open(i.dir())
	if err != nil {
		return image.Image{}, err
	}
	img, err := store.Import(ctx, file, name)
	if err != nil && fresh {
		_ = os.Remove(filepath.Join(i.dir(), ".lock")) // what may stay is an empty file
		undo()
	}
	return img, err
}

func checkArchive(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("import %s: %w; give the path of an OCI archive or of a file that `docker save` made", file, cause(err))
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("import %s: it isn't a file; give an OCI archive or a file that `docker save` made", file)
	}
	return nil
}

func (i *images) list(out io.Writer) error {
	var all []image.Image
	if i.exist() {
		store, err := image.Open(i.dir())
		if err != nil {
			return err
		}
		if all, err = store.List(); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "REFERENCE\tDIGEST")
	for _, img := range all {
		fmt.Fprintf(w, "%s\t%s\n", img.Ref, img.Digest)
	}
	return w.Flush()
}
