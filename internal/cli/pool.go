package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/lanprobe"
	"portico.dev/portico/internal/metallb"
)

// askedAtMost is how many addresses of the new ranges are asked for on the LAN.
const askedAtMost = 1024

func newPool() *cobra.Command {
	p := &poolAdd{client: &client{}}
	add := &cobra.Command{
		Use:   "add NAME RANGE...",
		Short: "Give load balancers addresses that nobody on the LAN has",
		Long: `Makes an IPAddressPool in the namespace metallb-system, or adds ranges to one. A range is
the first and the last address, a prefix, or a single address; of either family.

Before, this host asks its own networks by ARP and neighbour solicitations for each
address, which takes some seconds and needs root. Those that somebody has are left out.`,
		Example: `  portico pool add lan 192.0.2.240-192.0.2.250
  portico pool add lan 2001:db8::f0-2001:db8::fa              # more for the same pool
  portico pool add public 198.51.100.0/28 --no-auto-assign    # only for Services that ask for it`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("NAME and RANGE are needed; write `%s lan 192.0.2.240-192.0.2.250`", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args[0], args[1:])
		},
	}
	add.Flags().BoolVar(&p.noAutoAssign, "no-auto-assign", false, "keep it for Services that ask for it by the annotation "+pools.PoolAnnotation)
	add.Flags().BoolVar(&p.noProbe, "no-probe", false, "don't ask the LAN who has the addresses")
	cmd := &cobra.Command{
		Use: "pool", Short: "Address pools of load balancers",
		Example: `  portico pool add lan 192.0.2.240-192.0.2.250
  portico pools      # who has which address`,
	}
	p.client.flags(cmd)
	cmd.PersistentFlags().Lookup("namespace").Hidden = true // pools are in metallb-system
	return group(cmd, add)
}

// poolAdd is one run of `portico pool add`.
type poolAdd struct {
	client                *client
	noAutoAssign, noProbe bool
}

func (p *poolAdd) run(ctx context.Context, out, notes io.Writer, name string, texts []string) error {
	ranges, err := readRanges(texts)
	if err != nil {
		return err
	}
	dyn, err := p.client.dynamic()
	if err != nil {
		return err
	}
	config, err := metallb.Get(ctx, dyn)
	if err != nil {
		return poolsUnread(err)
	}
	_, kube, err := p.client.kube()
	if err != nil {
		return err
	}
	reserved, err := clusterRanges(ctx, kube)
	if err != nil {
		return err
	}
	if !p.noProbe {
		if ranges, err = leaveOut(ctx, notes, ranges); err != nil {
			return err
		}
	}
	pool, created := p.merge(config, name, ranges)
	if err := overlaps(config, pool, reserved); err != nil {
		return err
	}
	if err := writePool(ctx, dyn, pool, created); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "IPAddressPool %s: %s\n", name, strings.Join(pool.Spec.Addresses, ", ")); err != nil {
		return err
	}
	if len(config.L2Advertisements)+len(config.BGPAdvertisements) == 0 {
		fmt.Fprintf(notes, "Nothing announces it yet. For all pools, by ARP and neighbour discovery:\n"+
			"  echo '{apiVersion: metallb.io/v1beta1, kind: L2Advertisement, metadata: {name: all, namespace: %s}}' | portico kubectl apply -f -\n", core.Namespace)
	}
	return nil
}

// span are the addresses from the first to the last.
type span struct{ first, last netip.Addr }

func (s span) String() string {
	if s.first == s.last {
		return netip.PrefixFrom(s.first, s.first.BitLen()).String()
	}
	return s.first.String() + "-" + s.last.String()
}

// readRanges reads what a person wrote; a single address may stand for itself.
func readRanges(texts []string) ([]span, error) {
	var out []span
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			text = netip.PrefixFrom(addr, addr.BitLen()).String()
		}
		first, last, err := pools.ParseRange(text)
		if err != nil {
			return nil, fmt.Errorf("RANGE: %w", err)
		}
		out = append(out, span{first, last})
	}
	return out, nil
}

// leaveOut asks the LAN and takes the addresses that somebody has out of the ranges.
func leaveOut(ctx context.Context, notes io.Writer, ranges []span) ([]span, error) {
	addrs, all := firstOf(ranges, askedAtMost)
	result, err := lanprobe.Ask(ctx, addrs)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("the LAN can't be asked who has the addresses: %w; run this as root, or trust the ranges with --no-probe", err)
	}
	if !all {
		fmt.Fprintf(notes, "Only the first %d addresses were asked for.\n", askedAtMost)
	}
	if n := len(result.Unasked); n > 0 {
		fmt.Fprintf(notes, "%d addresses, %s among them, are of no network of this host: nobody could be asked.\n", n, result.Unasked[0])
	}
	var out []span
	for _, r := range ranges {
		out = append(out, r.without(result.Taken)...)
	}
	for _, addr := range slices.SortedFunc(keysOf(result.Taken), netip.Addr.Compare) {
		fmt.Fprintf(notes, "%s is left out: %s has it.\n", addr, holderOf(result.Taken[addr]))
	}
	if len(out) == 0 {
		return nil, errors.New("somebody has each of these addresses; choose others")
	}
	return out, nil
}

func keysOf(m map[netip.Addr]net.HardwareAddr) func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for addr := range m {
			if !yield(addr) {
				return
			}
		}
	}
}

func holderOf(mac net.HardwareAddr) string {
	switch {
	case mac == nil:
		return "this host"
	case len(mac) == 0:
		return "a neighbour"
	}
	return "the neighbour " + mac.String()
}

// firstOf gives at most limit addresses of the ranges, and whether these are all.
func firstOf(ranges []span, limit int) (addrs []netip.Addr, all bool) {
	for _, r := range ranges {
		for addr := r.first; addr.IsValid() && !r.last.Less(addr); addr = addr.Next() {
			if len(addrs) == limit {
				return addrs, false
			}
			addrs = append(addrs, addr)
		}
	}
	return addrs, true
}

// without is what is left of a range.
func (s span) without(taken map[netip.Addr]net.HardwareAddr) []span {
	out := []span{s}
	for addr := range taken {
		for i, r := range out {
			if addr.BitLen() != r.first.BitLen() || addr.Less(r.first) || r.last.Less(addr) {
				continue
			}
			out = slices.Delete(out, i, i+1)
			if r.first != addr {
				out = append(out, span{r.first, addr.Prev()})
			}
			if addr != r.last {
				out = append(out, span{addr.Next(), r.last})
			}
			break
		}
	}
	slices.SortFunc(out, func(a, b span) int { return a.first.Compare(b.first) })
	return out
}

// merge is the pool with the ranges added, and whether it is new.
func (p *poolAdd) merge(config *core.Config, name string, ranges []span) (pool *core.IPAddressPool, created bool) {
	at := slices.IndexFunc(config.Pools, func(is *core.IPAddressPool) bool { return is.Name == name })
	if created = at < 0; created {
		pool = &core.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Now()}}
	} else {
		copied := *config.Pools[at]
		pool = &copied
		pool.Spec.Addresses = slices.Clone(pool.Spec.Addresses)
	}
	for _, r := range ranges {
		if text := r.String(); !slices.Contains(pool.Spec.Addresses, text) {
			pool.Spec.Addresses = append(pool.Spec.Addresses, text)
		}
	}
	if p.noAutoAssign {
		no := false
		pool.Spec.AutoAssign = &no
	}
	return pool, created
}

// overlaps refuses what the controller would leave out. What was written before is `portico
// pools`' to tell: a node that came later is no reason against other ranges.
func overlaps(config *core.Config, pool *core.IPAddressPool, reserved []pools.Reserved) error {
	list := []*core.IPAddressPool{pool}
	for _, is := range config.Pools {
		if is.Name != pool.Name {
			list = append(list, is)
		}
	}
	_, before := pools.Parse(config, reserved...)
	_, faults := pools.Parse(&core.Config{Pools: list}, reserved...)
	for _, f := range faults {
		if (f.Pool == pool.Name || strings.Contains(f.Message, "IPAddressPool "+pool.Name+",")) && !slices.Contains(before, f) {
			return errors.New(f.String())
		}
	}
	return nil
}

func writePool(ctx context.Context, dyn dynamic.Interface, pool *core.IPAddressPool, created bool) error {
	client := dyn.Resource(metallb.Pools).Namespace(core.Namespace)
	addresses := make([]any, len(pool.Spec.Addresses))
	for i, a := range pool.Spec.Addresses {
		addresses[i] = a
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{}}}
	var err error
	if !created {
		if object, err = client.Get(ctx, pool.Name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("read IPAddressPool %s: %w", pool.Name, err)
		}
		object.SetResourceVersion(pool.ResourceVersion) // what the ranges were added to
	}
	object.SetAPIVersion(metallb.Pools.GroupVersion().String())
	object.SetKind("IPAddressPool")
	object.SetName(pool.Name)
	spec := object.Object["spec"].(map[string]any)
	spec["addresses"] = addresses
	if pool.Spec.AutoAssign != nil {
		spec["autoAssign"] = *pool.Spec.AutoAssign
	}
	if created {
		_, err = client.Create(ctx, object, metav1.CreateOptions{})
	} else {
		_, err = client.Update(ctx, object, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write IPAddressPool %s: %w", pool.Name, err)
	}
	return nil
}

// poolsUnread explains why the pools can't be read.
func poolsUnread(err error) error {
	if apierrors.IsNotFound(err) {
		return errors.New("the API has no IPAddressPools yet; `portico up` defines them some seconds after its start")
	}
	return fmt.Errorf("read the pools: %w", err)
}

// dynamic is a client of custom resources.
func (c *client) dynamic() (dynamic.Interface, error) {
	config, err := c.load()
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig can't be used: %w", err)
	}
	return dyn, nil
}
