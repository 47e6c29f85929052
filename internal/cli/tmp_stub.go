package cli

import (
	"github.com/spf13/cobra"
)

func newDown() *cobra.Command   { return &cobra.Command{Use: "down"} }
func newStatus() *cobra.Command { return &cobra.Command{Use: "status"} }
