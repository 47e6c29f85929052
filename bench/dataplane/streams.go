package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/network"
	"portico.dev/portico/bench/process"
)

const (
	// plainCommand makes this program a proxy that carries and does nothing else.
	plainCommand = "plain-proxy"

	streamPort, plainPort = 8090, 8091
	streamNodePort        = 30900

	streamRounds = 7
	streamBuffer = 256 << 10
)

var (
	streamIP = netip.MustParseAddr("10.108.0.4")
	// narrowAddr is a loopback address to which routes are as narrow as to cluster IPs.
	narrowAddr = netip.MustParseAddr("127.0.0.77")
)

// way is one by which a stream is sent.
type way struct {
	name  string
	to    netip.AddrPort
	proxy *process.Process // nil: none
}

// streams sends through our proxy, through a plain one and through none, by turns, all
// within one host. A node port's route is by the loopback link, as the plain proxy's is. A
// cluster IP's is by portico0, whose MTU is 1500: beside it the plain proxy is reached by
// a route as narrow. What translating costs is in ours alone.
func (w *world) streams(ctx context.Context, r *running, length time.Duration, into *results) error {
	host, sinkAt := r.site.node, netip.AddrPortFrom(r.site.address, streamPort)
	stop, err := holdOpen(host, sinkAt.String())
	if err != nil {
		return err
	}
	defer stop()
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"stream"},"spec":{"type":"NodePort","clusterIP":%q,`+
		`"ports":[{"name":"http","port":%d,"targetPort":%d,"nodePort":%d}]}}`, streamIP, servicePort, streamPort, streamNodePort)
	if err := w.make(ctx, "stream", body, []netip.Addr{r.site.address}, streamPort); err != nil {
		return err
	}
	if err := narrow(host, narrowAddr, "portico0"); err != nil {
		return err
	}
	plain, err := w.launchPlain(host, sinkAt)
	if err != nil {
		return err
	}
	defer plain.Kill()
	ways := []way{
		{userspacePrefix, netip.AddrPortFrom(r.site.address, streamNodePort), r.Process},
		{userspacePrefix + "plain_proxy_", netip.AddrPortFrom(r.site.address, plainPort), plain},
		{userspacePrefix + "cluster_ip_", netip.AddrPortFrom(streamIP, servicePort), r.Process},
		{userspacePrefix + "cluster_ip_plain_proxy_", netip.AddrPortFrom(narrowAddr, plainPort), plain},
		{userspacePrefix + "no_proxy_", sinkAt, nil},
	}
	for _, way := range ways {
		if err := answers(ctx, host, way.to); err != nil {
			return err
		}
	}
	for range streamRounds {
		for _, way := range ways {
			if err := way.measure(ctx, host, length, into); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure sends once, for length.
func (o way) measure(ctx context.Context, h *network.Host, length time.Duration, into *results) error {
	var before, after process.Times
	var err error
	if o.proxy != nil {
		if before, err = o.proxy.Times(); err != nil {
			return err
		}
	}
	sent, took, err := stream(ctx, h, o.to, length)
	if err != nil {
		return err
	}
	into.put(o.name+"gbits", float64(sent)*8/took.Seconds()/1e9)
	if o.proxy == nil {
		return nil
	}
	if after, err = o.proxy.Times(); err != nil {
		return err
	}
	into.put(o.name+"cpu_seconds_per_gb", after.Minus(before).Total().Seconds()/(float64(sent)/1e9))
	return nil
}

// narrow has a host's own packets to one of its loopback addresses be no larger than a link
// would take.
func narrow(h *network.Host, to netip.Addr, as string) error {
	like, err := h.Links.LinkByName(as)
	lo, err2 := h.Links.LinkByName("lo")
	if err = errors.Join(err, err2); err != nil {
		return fmt.Errorf("find the links %s and lo: %w", as, err)
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: network.IPNet(single(to)), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
		Scope: netlink.SCOPE_HOST, MTU: like.Attrs().MTU,
	}
	if err := h.Links.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s as %s does: %w", to, as, err)
	}
	return nil
}

// launchPlain starts a plain proxy at all addresses of a host.
func (w *world) launchPlain(h *network.Host, to netip.AddrPort) (*process.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), plainPort)
	return process.Launch(w.dir, plainCommand, slices.Concat(h.Enter(), []string{self, plainCommand, at.String(), to.String()})...)
}

// stream sends for a while, and tells how much.
func stream(ctx context.Context, h *network.Host, to netip.AddrPort, length time.Duration) (sent int64, took time.Duration, err error) {
	c, err := connect(ctx, h, to)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	buffer, began := make([]byte, streamBuffer), time.Now()
	for time.Since(began) < length {
		n, err := c.Write(buffer)
		if err != nil {
			return 0, 0, fmt.Errorf("send to %s: %w", to, err)
		}
		sent += int64(n)
	}
	return sent, time.Since(began), nil
}

// plainProxy carries from one address to another, as briefly as Go can say it.
func plainProxy(listen, to string) error {
	l, err := net.Listen("tcp4", listen)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			up, err := net.Dial("tcp4", to)
			if err != nil {
				return
			}
			defer up.Close()
			go io.Copy(c, up) //nolint:errcheck // its end ends the other
			io.Copy(up, c)    //nolint:errcheck // whichever end it was
		}()
	}
}
