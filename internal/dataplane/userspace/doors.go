package userspace

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/routes/rtevent"
)

// doors are the sockets of a process that may not lead packets to itself: they listen at
// Services' own addresses and ports, as far as the host has those. Cluster IPs, which no
// host has, aren't served.
type doors struct {
	b      *Backend
	events *rtevent.Watcher

	mu     sync.Mutex // guards the following; taken before Backend.mu
	open   map[routing.Key]*directDoor
	faults map[routing.Key]Fault
	closed bool
}

// directDoor is one socket that listens.
type directDoor struct {
	front *front
	tcp   *net.TCPListener
	udp   *udpProxy
}

// Fault is an address and port that should be served and isn't.
type Fault struct {
	Key     routing.Key
	Service types.NamespacedName
	Err     error
}

// String says which, whose and why.
func (f Fault) String() string {
	why := f.Err.Error()
	switch {
	case errors.Is(f.Err, unix.EADDRINUSE):
		why = "another program listens there (`ss -lntup` shows which)"
	case errors.Is(f.Err, fs.ErrPermission):
		why = "this process may not open ports so low (net.ipv4.ip_unprivileged_port_start)"
	}
	return fmt.Sprintf("%s of Service %s isn't served: %s", f.Key, f.Service, why)
}

func openDoors(b *Backend) (*doors, error) {
	events, err := rtevent.Open()
	if err != nil {
		return nil, err
	}
	return &doors{b: b, events: events, open: map[routing.Key]*directDoor{}, faults: map[routing.Key]Fault{}}, nil
}

// faultPause is how long a port that couldn't be had is left alone: nothing tells when
// another program frees one.
const faultPause = 2 * time.Second

// run follows the host's addresses, and tries again what failed.
func (d *doors) run() {
	var group sync.WaitGroup
	news := make(chan struct{}, 1)
	group.Go(func() {
		err := d.events.Run(d.b.life, func(e rtevent.Event) {
			if e.Kind == rtevent.Addr || e.Kind == rtevent.Lost {
				select {
				case news <- struct{}{}:
				default:
				}
			}
		})
		if err != nil {
			d.b.log.Error("This host's addresses are no longer followed", "error", err)
		}
	})
	defer group.Wait()
	ticker := time.NewTicker(faultPause)
	defer ticker.Stop()
	for {
		select {
		case <-d.b.life.Done():
			return
		case <-news:
			d.look()
		case <-ticker.C:
			d.retry()
		}
	}
}

// hostAddresses are those of the host's links. One that may be a duplicate can't be bound yet.
func hostAddresses() (map[netip.Addr]bool, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	out := map[netip.Addr]bool{}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			out[addr.Unmap()] = true
		}
	}
	return out, nil
}

// look compares all that listens with all that should.
func (d *doors) look() {
	d.mu.Lock() // before the addresses are read, or an older reading could come last
	defer d.mu.Unlock()
	var own map[netip.Addr]bool
	err := d.b.enter(func() (err error) {
		own, err = hostAddresses()
		return err
	})
	if err != nil {
		d.b.log.Warn("This host's addresses are unknown for now; the last ones are kept", "error", err)
	}
	keys := map[routing.Key]bool{}
	d.b.mu.Lock()
	if err == nil {
		d.b.own = own
	}
	for key := range d.b.fronts {
		for exact := range d.keysOf(key) {
			keys[exact] = true
		}
	}
	d.b.mu.Unlock()
	for key := range d.open {
		keys[key] = true
	}
	for key := range d.faults {
		keys[key] = true
	}
	for key := range keys {
		d.settle(key)
	}
}

// keysOf gives the very addresses that a key stands for. Backend.mu is held.
func (d *doors) keysOf(key routing.Key) map[routing.Key]bool {
	if !key.AnyNode() {
		return map[routing.Key]bool{key: true}
	}
	out := map[routing.Key]bool{}
	for a := range d.b.nodes {
		if a.Is6() == key.Addr.Is6() {
			out[routing.Key{Addr: a, Protocol: key.Protocol, Port: key.Port}] = true
		}
	}
	return out
}

// change compares what a change is about.
func (d *doors) change(change routing.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := map[routing.Key]bool{}
	d.b.mu.Lock()
	for _, f := range change.Set {
		maps.Copy(keys, d.keysOf(f.Key))
	}
	for _, key := range change.Removed {
		maps.Copy(keys, d.keysOf(key))
	}
	d.b.mu.Unlock()
	for key := range keys {
		d.settle(key)
	}
}

// retry tries what failed before.
func (d *doors) retry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.faults {
		d.settle(key)
	}
}

// listener gives the frontend that should listen at an address and port; nil: none. As in
// the rules of other data planes the one of that very address comes first.
func (d *doors) listener(key routing.Key) *front {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	f := d.b.fronts[key]
	if f == nil && d.b.nodes[key.Addr] {
		f = d.b.fronts[routing.Key{Addr: unspecified(key.Addr), Protocol: key.Protocol, Port: key.Port}]
	}
	// Where nobody is served the kernel refuses for us: nothing listens (DP-09).
	if f == nil || !d.b.own[key.Addr] || f.get().Kind == routing.ClusterIP || !f.get().Serves() {
		return nil
	}
	return f
}

// settle opens or closes the socket of one address and port, as it should be. mu is held.
func (d *doors) settle(key routing.Key) {
	want, have := d.listener(key), d.open[key]
	// A listener leads to whatever frontend there is, flows belong to one.
	if have != nil && (want == nil || have.udp != nil && have.front != want) {
		have.close()
		delete(d.open, key)
		have = nil
	}
	if want == nil {
		delete(d.faults, key)
	}
	if want == nil || have != nil || d.closed {
		return
	}
	next, err := d.listen(key, want)
	if err != nil {
		fault := Fault{key, want.get().Service, err}
		if before, again := d.faults[key]; !again || before.String() != fault.String() { // once
			d.b.log.Error("A port can't be opened; the others are served", "error", fault)
		}
		d.faults[key] = fault
		return
	}
	if _, failed := d.faults[key]; failed {
		d.b.log.Info("A port is served now", "port", key, "service", want.get().Service)
		delete(d.faults, key)
	}
	d.open[key] = next
}

func (d *doors) listen(key routing.Key, f *front) (out *directDoor, err error) {
	at, out := netip.AddrPortFrom(key.Addr, key.Port), &directDoor{front: f}
	switch key.Protocol {
	case protocolTCP:
		if err = d.b.enter(func() error { out.tcp, err = listenTCP(at); return err }); err != nil {
			return nil, err
		}
		if !d.b.begin(func() { d.b.accept(out.tcp, ownAddress) }) {
			return nil, errors.Join(net.ErrClosed, out.tcp.Close())
		}
	case protocolUDP:
		if out.udp, err = d.b.openUDP(f, at); err != nil {
			return nil, err
		}
		if !d.b.begin(out.udp.serve) {
			out.udp.close()
			return nil, net.ErrClosed
		}
	default:
		return nil, errors.New("this data plane carries TCP and UDP only")
	}
	return out, nil
}

func (o *directDoor) close() {
	if o.tcp != nil {
		_ = o.tcp.Close() // connections that were accepted go on
	}
	if o.udp != nil {
		o.udp.close()
	}
}

// review has the flows of a frontend follow what changed.
func (d *doors) review(f *front) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.b.mu.Lock()
	keys := d.keysOf(f.get().Key)
	d.b.mu.Unlock()
	for key := range keys {
		if o := d.open[key]; o != nil && o.udp != nil && o.front == f {
			o.udp.review()
		}
	}
}

// verify says in words what should listen and doesn't, or the reverse.
func (d *doors) verify() (words []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.b.mu.Lock()
	wanted := map[routing.Key]bool{}
	for key := range d.b.fronts {
		maps.Copy(wanted, d.keysOf(key))
	}
	d.b.mu.Unlock()
	for key := range wanted {
		switch want, have := d.listener(key), d.open[key]; {
		case want != nil && have == nil:
			words = append(words, fmt.Sprintf("%s isn't open", key))
		case want == nil && have != nil:
			words = append(words, fmt.Sprintf("%s is open and shouldn't be", key))
		}
	}
	for key := range d.open {
		if !wanted[key] {
			words = append(words, fmt.Sprintf("%s is open and shouldn't be", key))
		}
	}
	slices.Sort(words)
	return words
}

func (d *doors) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for key, o := range d.open {
		o.close()
		delete(d.open, key)
	}
	return nil
}

// Unserved gives what this process should listen at and can't, in order. Only a direct
// data plane has such.
func (b *Backend) Unserved() []Fault {
	if b.doors == nil {
		return nil
	}
	b.doors.mu.Lock()
	defer b.doors.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.doors.faults), func(x, y Fault) int {
		return netip.AddrPortFrom(x.Key.Addr, x.Key.Port).Compare(netip.AddrPortFrom(y.Key.Addr, y.Key.Port))
	})
}

var _ slog.LogValuer = Fault{}

// LogValue implements slog.LogValuer.
func (f Fault) LogValue() slog.Value { return slog.StringValue(f.String()) }
