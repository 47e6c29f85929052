package cli

import (
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"portico.dev/portico/internal/vm/image"
)

func newImage() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Images that guests boot from, in this host's store",
		Example: `  portico image import guest.tar
  portico image import guest.tar --name example.com/guest:v1
  portico image list`,
	}
	cmd.PersistentFlags().StringVar(&dataDir, "data-dir", defaultDataDir, "`folder` of the store, as given to portico up")
	open := func() (*image.Store, error) { return image.Open(filepath.Join(dataDir, "images")) }
	var name string
	importing := &cobra.Command{
		Use: "import FILE", Short: "Take an OCI archive or a `docker save` file into the store", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			img, err := store.Import(cmd.Context(), args[0], name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "imported %s (%s)\n", img.Ref, img.Digest)
			return err
		},
	}
	importing.Flags().StringVar(&name, "name", "", "`reference` to store it under (default: the one in the archive)")
	list := &cobra.Command{
		Use: "list", Short: "List the images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			images, err := store.List()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "REFERENCE\tDIGEST")
			for _, img := range images {
				fmt.Fprintf(w, "%s\t%s\n", img.Ref, img.Digest)
			}
			return w.Flush()
		},
	}
	remove := &cobra.Command{
		Use: "remove REFERENCE", Short: "Remove an image; guests that run from it go on", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			return store.Remove(args[0])
		},
	}
	cmd.AddCommand(importing, list, remove)
	return cmd
}
