package cli

import "github.com/spf13/cobra"

func newDNS() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Ask this node's DNS server, and list the cluster's records",
		Example: `  portico dns query web.default.svc.cluster.local
  portico dns records -n default`,
	}
	return group(cmd, newDNSQuery(), newDNSRecords())
}
