package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/network"
	"portico.dev/portico/bench/process"
)

// Few kernels that benchmarks run on have IPVS. So a node of that mode is a guest with
// Debian's kernel, whose processor is emulated where /dev/kvm doesn't do: the client, the
// backends, the API and who changes its objects stay outside, on real processors.

const modeIpvs = "ipvs"

// inGuest is the patience with an emulated processor: each try of a door costs it what a
// hundred would cost a real one.
var inGuest = pace{timeout: 500 * time.Millisecond, between: 20 * time.Millisecond, patience: 20 * time.Minute}

// guestModules are those of the kernel that both contenders need.
var guestModules = []string{
	"virtio_net", "xfrm_user", "veth", "bridge", "dummy", "nf_conntrack", "nf_conntrack_netlink", "nf_tables", "nft_ct", "nft_chain_nat", "nft_nat",
	"nft_masq", "nft_redir", "nft_reject_ipv4", "nft_reject_ipv6", "nft_fib_ipv4", "nft_fib_ipv6", "nft_numgen", "nft_hash", "nft_limit", "nft_quota", "nft_log", "nft_compat",
	"ip_vs", "ip_vs_rr", "ip_set", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet", "ip_set_bitmap_port",
	"xt_set", "xt_comment", "xt_mark", "xt_addrtype", "xt_conntrack", "xt_MASQUERADE", "xt_nat", "xt_tcpudp", "xt_physdev", "ipt_REJECT", "ip6t_REJECT",
}

// guestTools are the peer's: all of iptables is one program that goes by its name.
var guestTools = []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore", "ipset", "nft"}

// guestFiles are what these read: iptables' extensions, and names of protocols.
var guestFiles = []string{"/usr/lib/x86_64-linux-gnu/xtables", "/etc/protocols"}

// buildGuest makes a guest's image, with this program as what it runs.
func (p *plan) buildGuest(ctx context.Context, into string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	portico, err := filepath.Abs(p.portico)
	if err != nil {
		return err
	}
	tools, files := []string{portico}, []string(nil)
	if p.kubeproxy != "" {
		tools, files = append(append(tools, p.kubeproxy), guestTools...), guestFiles
	}
	cmd := exec.CommandContext(ctx, p.guestBuilder, "-o", into, "-program", self, "-args", guestCommand,
		"-modules", strings.Join(guestModules, ","), "-tools", strings.Join(tools, ","), "-files", strings.Join(files, ","))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build a guest: %w: %s", err, out)
	}
	return nil
}

// toolInGuest is where a guest has a program of the host's.
func toolInGuest(path string) string { return "/bin/" + filepath.Base(path) }

// ipvsContenders are ours and the peer in the ipvs mode.
func (p *plan) ipvsContenders() (out []contender) {
	own := p.ours("portico-ipvs", modeIpvs, nil)
	own.prefix = "ipvs_"
	out = append(out, own)
	if p.kubeproxy != "" {
		inside := *p
		inside.kubeproxy = toolInGuest(p.kubeproxy)
		peer := inside.peer("kubeproxy-ipvs", modeIpvs, nil)
		peer.prefix, peer.most = "kubeproxy_ipvs_", min(peer.most, p.ipvsPeerMost)
		out = append(out, peer)
	}
	for i := range out {
		out[i].pace = inGuest
	}
	return out
}

// inIpvs measures starts, each in a new guest, by turns, and in the last of each changes.
func (p *plan) inIpvs(ctx context.Context, w *world, size int, into *results) error {
	for round := range p.programRounds {
		for _, c := range p.ipvsContenders() {
			if !c.takes(size) {
				continue
			}
			if err := p.asGuest(ctx, w, c, size, round == p.programRounds-1, into); err != nil {
				return fmt.Errorf("measure %s with %d Services: %w", c.name, size, err)
			}
		}
	}
	return nil
}

func (p *plan) asGuest(ctx context.Context, w *world, c contender, size int, last bool, into *results) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	into.progress("%s in a guest", c.name)
	r, err := p.boot(ctx, w, c)
	if err != nil {
		return err
	}
	defer r.site.close()
	defer r.Kill()
	before, err := r.Times()
	if err != nil {
		return err
	}
	took, err := r.programmed(ctx, size)
	if err != nil {
		return err
	}
	into.put(c.prefix+"program_"+short(size)+"_seconds", took.wall.Seconds())
	into.put(c.prefix+"program_"+short(size)+"_cpu_seconds", took.used.Minus(before).Total().Seconds()) // of the whole guest
	if !last {
		return nil
	}
	most, between := p.churn, shortPause
	if c.peer {
		most, between = most*slowTimes, longPause
	}
	rest, err := p.change(ctx, w, r.site, p.changes, between, most)
	if c.peer && errors.Is(err, errUnseen) {
		into.put(c.prefix+"api_to_packet_least_ms_"+short(size), figure.Milliseconds(r.site.pace.patience))
		return nil
	}
	if err != nil {
		return err
	}
	rest.put(into, c.prefix, short(size))
	others, err := w.churn(ctx, size)
	if err != nil {
		return err
	}
	defer others.stop()
	busy, err := p.change(ctx, w, r.site, p.changes, shortPause, most)
	if err != nil {
		return err
	}
	others.stop()
	busy.put(into, c.prefix, short(size)+"_churn")
	return others.err
}

// boot starts a guest as the node of a new site, and its contender.
func (p *plan) boot(ctx context.Context, w *world, c contender) (_ *running, err error) {
	s := &site{name: c.name, address: guestToHub.Addr(), pace: c.pace}
	r := &running{contender: c, site: s}
	defer func() {
		if err != nil {
			if r.Process != nil {
				r.Kill()
			}
			s.close()
		}
	}()
	w.hub.sites++
	s.number = w.hub.sites
	w.starts++
	taps := [3]string{}
	for i, end := range []string{"uplink", "client", "backend"} {
		taps[i] = fmt.Sprintf("%s%d", end, s.number)
	}
	if r.Process, err = process.Launch(w.dir, fmt.Sprintf("%s-%d", c.name, w.starts), qemu(p.guestImage, taps[:])...); err != nil {
		return nil, err
	}
	if err := s.around(ctx, w.hub, r, taps); err != nil {
		return nil, err
	}
	if err := w.with(ctx, func(client *apiclient.Client) error { return c.prepare(client, s) }); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", c.name, err)
	}
	return r, r.order(ctx, w, s)
}

// qemu gives the command line of a guest. One processor: emulation of several runs into
// code that another is just patching (static keys), and the guest's kernel falls over it.
func qemu(image string, taps []string) []string {
	out := []string{
		"qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "2048",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", filepath.Join(image, "initrd"),
		"-append", "console=ttyS0 quiet nokaslr mitigations=off no_timer_check tsc=reliable cryptomgr.notests audit=0 apparmor=0 panic=-1",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=out", "-device", "virtconsole,chardev=out",
	}
	for i, tap := range taps {
		id := fmt.Sprint("net", i)
		out = append(out, "-netdev", "tap,id="+id+",ifname="+tap+",script=no,downscript=no", "-device", fmt.Sprintf("virtio-net-pci,romfile=,netdev=%s,mac=52:54:00:00:00:%02x", id, i+1))
	}
	return out
}

// around lays what is around a guest: its wire to the hub, a client and backends.
func (s *site) around(ctx context.Context, h *hub, r *running, taps [3]string) (err error) {
	if err := r.Wait(ctx, patience, func(context.Context) error {
		_, err := h.links.LinkByName(taps[2])
		return err
	}); err != nil {
		return err
	}
	if err := network.Address(h.links, taps[0], hubToGuest); err != nil {
		return err
	}
	if err := network.Up(h.links, taps[0]); err != nil {
		return err
	}
	if s.client, err = network.NewHost(clientSysctls); err != nil {
		return err
	}
	if s.backend, err = network.NewHost(nil); err != nil {
		return err
	}
	if err := network.Move(h.links, taps[1], s.client, "eth0", single(clientAddr)); err != nil {
		return err
	}
	if err := network.Move(h.links, taps[2], s.backend, "eth0", backendAddr); err != nil {
		return err
	}
	if err := s.layEnds(); err != nil {
		return err
	}
	return s.open()
}

// order waits until the guest listens, and has it start the contender.
func (r *running) order(ctx context.Context, w *world, s *site) error {
	config, err := os.ReadFile(w.config)
	if err != nil {
		return err
	}
	inside := &world{dir: "/tmp", portico: toolInGuest(w.portico), config: guestConfig}
	raw, err := json.Marshal(order{Kubeconfig: config, Argv: r.contender.argv(inside, s)})
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(guestToHub.Addr(), orderPort).String()
	return r.Wait(ctx, patience, func(ctx context.Context) error {
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(ctx, "tcp4", at)
		if err != nil {
			return err
		}
		_, err = c.Write(raw)
		r.began = time.Now()
		return errors.Join(err, c.Close())
	})
}
