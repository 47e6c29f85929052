package cli

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/internal/routes"
)

// limitedText is what a node side without privileges leaves out.
const limitedText = "node ports, and external and load-balancer addresses that this host has, are served by sockets of this process; cluster IPs, DNS, guests, announcements and routes to other nodes are not"

// checkPrivilege finds whether this process may change the host's network. Where it may not,
// the userspace data plane serves what takes no privilege, if that was chosen or nothing
// else works: limited then, and nothing more is to be checked.
func (o *options) checkPrivilege(log *slog.Logger) (limited bool, err error) {
	var lacks error
	if os.Geteuid() != 0 {
		lacks = errors.New("this process isn't root's")
	} else {
		lacks = nftables.Missing()
	}
	t, err := o.technique()
	if lacks == nil || t == nil || t.name != userspaceName {
		return false, cmp.Or(needRoot(), err)
	}
	if o.vm != "auto" && o.vm != "off" {
		return false, fmt.Errorf("--vm %s takes the privilege to make links, and %w; start with --vm off", o.vm, lacks)
	}
	if _, err := routes.PrimaryAddresses(o.nodeIPs); err != nil {
		return false, err
	}
	o.lacks, o.vm, o.dataplane = lacks, "off", userspaceName
	log.Warn("Services are served in part: "+limitedText, "because", lacks)
	return true, nil
}

// limits says what this node doesn't serve, for its condition.
func (n *nodeRun) limits() string {
	words := []string{fmt.Sprintf("%s: %v", limitedText, n.o.lacks)}
	for _, f := range n.userspace.Unserved() {
		words = append(words, f.String())
	}
	return strings.Join(words, "; ")
}
