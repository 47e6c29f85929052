package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/iptables"
	"portico.dev/portico/internal/dataplane/ipvs"
	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/internal/dataplane/tracked"
	"portico.dev/portico/internal/dataplane/userspace"
)

// The values of --dataplane that are no technique.
const (
	dataplaneAuto = "auto" // the first of the techniques that this host can do
	dataplaneNone = "none" // packets are somebody else's business
)

const (
	nftablesName  = "nftables"
	userspaceName = "userspace"
	iptablesName  = "iptables"
)

// modeVariable chooses the technique where neither a flag nor the configuration does, as
// in the files that kube-proxy's manuals set it in.
const modeVariable = "KUBE_PROXY_MODE"

// technique is one way to have packets handled.
type technique struct {
	name string
	// missing says what this host lacks for it; nil: nothing.
	missing func() error
	open    func(n *nodeRun) (dataplane.Backend, error)
	// remains names what it has of its own in this network namespace, from this run or
	// an earlier one.
	remains func() ([]string, error)
	// remove takes that away, and nothing else.
	remove func(ctx context.Context, log *slog.Logger) error
	// counts gives what the kernel counts, until close is called; nil: it counts nothing.
	counts func() (counts func() (dataplane.Counts, error), close func() error, err error)
	// connections says what becomes of the open ones when it is removed.
	connections string
	// inspect opens what reads the kernel back, in this network namespace; nil: nothing does.
	// last is nil where no run is known.
	inspect func(last *runRecord) (dataplane.Inspector, error)
	path    path
}

// path is how packets to Services go through this host. None is fast, passing netfilter by.
type path struct{ name, because string }

// pathStack is the way through the kernel's network stack.
const pathStack = "stack"

var (
	forwarded = path{pathStack, "packets must meet the host's own netfilter rules"}
	delivered = path{pathStack, "packets must meet the host's own netfilter rules; with IPVS, requests meet those for input and output, answers those for forwarding"}
	proxied   = path{"process", "connections end at its sockets; the host's own netfilter rules for input and output apply to them, those for forwarding don't"}
)

// translated is what becomes of connections that conntrack knows.
const translated = "those that it translated go on until conntrack forgets them"

// techniques are all there are, the best first.
func techniques() []technique {
	return []technique{
		{nftablesName, nftables.Missing, openNftables, func() ([]string, error) { return tablesOf(nftables.Table) }, removeNftables, countNftables, translated, inspectNftables, forwarded},
		{iptablesName, iptables.Missing, openIptables, func() ([]string, error) { return iptables.Remains(context.Background()) }, removeIptables, tracked.OpenUse, translated, inspectIptables, forwarded},
		{ipvsName, missingIPVS, openIPVS, ipvs.Remains, ipvs.Remove, tracked.OpenUse, "those that virtual servers carried end", inspectIPVS, delivered},
		{userspaceName, func() error { return nil }, openUserspace, func() ([]string, error) { return tablesOf(userspace.Table) }, removeUserspace, nil, "those that it carried ended with its program", inspectUserspace, proxied},
	}
}

func techniqueNames() []string {
	var names []string
	for _, t := range techniques() {
		names = append(names, t.name)
	}
	return names
}

// dataplaneChoices are the values of --dataplane.
func dataplaneChoices() []string {
	return append(append([]string{dataplaneAuto}, techniqueNames()...), dataplaneNone)
}

// completeDataplane fills in the choice that was made by a variable of the environment.
func (o *options) completeDataplane() error {
	o.chooser = "--dataplane"
	if o.dataplane == "" {
		if o.dataplane = strings.ToLower(os.Getenv(modeVariable)); o.dataplane != "" {
			o.chooser = modeVariable
		}
	}
	o.dataplane = cmp.Or(o.dataplane, dataplaneAuto)
	if choices := dataplaneChoices(); !slices.Contains(choices, o.dataplane) {
		return fmt.Errorf("%s %q is unknown; choose one of %s", o.chooser, o.dataplane, strings.Join(choices, ", "))
	}
	return nil
}

// technique gives the one that was chosen, nil for none. What this host can't do is an
// error that says what it lacks and what it can.
func (o *options) technique() (*technique, error) {
	if o.dataplane == dataplaneNone {
		return nil, nil
	}
	if o.picked == nil { // looking for what a host lacks tries rules, which takes a while
		t, err := pick(techniques(), o.chooser, o.dataplane)
		if err != nil {
			return nil, err
		}
		o.picked = t
	}
	return o.picked, nil
}

// techniqueOf gives that of a run; where none is known, or it took the best one, that of
// which there is something here.
func techniqueOf(last *runRecord) technique {
	all := techniques()
	named := func(t technique) bool { return last != nil && t.name == last.DataPlane }
	present := func(t technique) bool {
		found, err := t.remains()
		return err == nil && len(found) > 0
	}
	i := slices.IndexFunc(all, named)
	if i < 0 {
		i = slices.IndexFunc(all, present)
	}
	return all[max(i, 0)]
}

// pick gives the technique of a choice, or the first that works. chooser is what people chose it by.
func pick(from []technique, chooser, choice string) (*technique, error) {
	var able []string
	var lacks []error
	for i := range from {
		t := &from[i]
		err := t.missing()
		if err == nil && (choice == dataplaneAuto || choice == t.name) {
			return t, nil
		}
		if err == nil {
			able = append(able, t.name)
		} else if choice == dataplaneAuto || choice == t.name {
			lacks = append(lacks, fmt.Errorf("%s: %w", t.name, err))
		}
	}
	remedy := "; --dataplane none leaves packets to another program"
	if len(able) > 0 {
		remedy = "; this host can do --dataplane " + strings.Join(able, " or ")
	}
	return nil, fmt.Errorf("%s %s can't work on this host: %w%s", chooser, choice, errors.Join(lacks...), remedy)
}

// removeOthers takes away what other techniques have left on this node, once the new one
// serves.
func (n *nodeRun) removeOthers(ctx context.Context) error {
	if n.plane.Wait(ctx) != nil {
		return nil // the end came first
	}
	for _, t := range techniques() {
		if t.name == n.technique.name {
			continue
		}
		removed, err := t.takeAway(ctx, n.log)
		for _, r := range removed {
			n.log.Info("Removed what an earlier data plane left", "what", r, "dataplane", t.name, "connections", t.connections)
		}
		if err != nil {
			n.log.Warn("What an earlier data plane left is still there", "error", err)
		}
	}
	return nil
}

// removeTechniques takes away what the techniques have in this network namespace, and
// names it.
func removeTechniques(ctx context.Context, log *slog.Logger) (removed []string, failed error) {
	for _, t := range techniques() {
		some, err := t.takeAway(ctx, log)
		removed, failed = append(removed, some...), errors.Join(failed, err)
	}
	return removed, failed
}

// takeAway removes what the technique has in this network namespace, and names it.
func (t *technique) takeAway(ctx context.Context, log *slog.Logger) (removed []string, err error) {
	before, err := t.remains()
	if err == nil && len(before) == 0 {
		return nil, nil
	}
	err = errors.Join(err, t.remove(ctx, log))
	after, again := t.remains()
	if err = errors.Join(err, again); err != nil {
		err = fmt.Errorf("remove what the %s data plane left: %w", t.name, err)
	}
	return slices.DeleteFunc(before, func(s string) bool { return slices.Contains(after, s) }), err
}

// techniquesRemain names what all techniques have in this network namespace.
func techniquesRemain() (all []string, err error) {
	for _, t := range techniques() {
		some, err := t.remains()
		if err != nil {
			return nil, fmt.Errorf("look for what the %s data plane left: %w", t.name, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// readAhead begins to read what the data plane's first look at the kernel will need.
func (n *nodeRun) readAhead() (err error) {
	if n.technique != nil && n.technique.name == nftablesName {
		n.ahead, err = nftables.ReadAhead()
	}
	return err
}

func openNftables(n *nodeRun) (dataplane.Backend, error) {
	ahead := n.ahead
	n.ahead = nil // the backend closes it
	backend, err := nftables.New(nftables.Config{
		WorkloadRanges: n.workloads(), HairpinSources: n.own(), Logger: n.log, Ahead: ahead, Unheard: n.hush.unheard,
	})
	if err != nil {
		return nil, fmt.Errorf("open the nftables data plane: %w", err)
	}
	if err := n.hush.ignore(backend.Port()); err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	return backend, nil
}

// nftTable begins the names that tablesOf gives.
const nftTable = "nftables table "

// tablesOf names the nftables tables of a name, in both families.
func tablesOf(name string) (out []string, err error) {
	tables, err := ourTables()
	for _, t := range tables {
		if t == "ip "+name || t == "ip6 "+name {
			out = append(out, nftTable+t)
		}
	}
	return out, err
}

func removeNftables(ctx context.Context, log *slog.Logger) error {
	plane, err := nftables.New(nftables.Config{Logger: log})
	if err != nil {
		return err
	}
	return errors.Join(plane.Cleanup(ctx), plane.Close())
}

func countNftables() (func() (dataplane.Counts, error), func() error, error) {
	r, err := nftables.OpenReader()
	if err != nil {
		return nil, nil, err
	}
	return r.Counts, r.Close, nil
}

func inspectNftables(*runRecord) (dataplane.Inspector, error) { return nftables.OpenReader() }

func openIptables(n *nodeRun) (dataplane.Backend, error) {
	return iptables.New(iptables.Config{
		WorkloadRanges: n.workloads(), HairpinSources: n.own(), MasqueradeBit: n.o.masqueradeBit, LocalNodePorts: n.o.localNodePorts, Logger: n.log,
	})
}

func inspectIptables(last *runRecord) (dataplane.Inspector, error) {
	cfg := iptables.Config{MasqueradeBit: iptables.DefaultMasqueradeBit}
	if last != nil {
		cfg.MasqueradeBit, cfg.LocalNodePorts = last.MasqueradeBit, last.LocalNodePorts
	}
	return iptables.OpenReader(cfg)
}

func removeIptables(ctx context.Context, _ *slog.Logger) error { return iptables.Remove(ctx) }

func openUserspace(n *nodeRun) (dataplane.Backend, error) {
	backend, err := userspace.New(userspace.Config{Workloads: n.workloads(), Addresses: n.own(), Direct: n.o.lacks != nil, Logger: n.log})
	if err != nil {
		return nil, err
	}
	n.userspace = backend
	return backend, nil
}

func inspectUserspace(last *runRecord) (dataplane.Inspector, error) {
	if last == nil || !last.Limited {
		return userspace.OpenReader()
	}
	pid, _ := claimant()
	if pid == 0 {
		return nil, errors.New("the agent serves Services by sockets of its own, and none runs in this network namespace")
	}
	return userspace.OpenDirectReader(pid), nil
}

func removeUserspace(context.Context, *slog.Logger) error { return userspace.Remove() }
