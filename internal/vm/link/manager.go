package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/rtevent"
	"portico.dev/portico/internal/routes/ruleset"
)

// Config is what all links have in common.
type Config struct {
	// Source4 and Source6 are the node's own addresses, on portico0: the source
	// of what the node sends to guests. Either may be invalid.
	Source4, Source6 netip.Addr
	MTU              int // at first: what guests may send in one piece, wherever it goes
	Log              *slog.Logger
}

// Manager makes and keeps the guests' links. Its methods may be called from any
// goroutine.
type Manager struct {
	cfg     Config
	ipv6    bool // the host has it
	log     *slog.Logger
	watcher *rtevent.Watcher
	keeper  *ruleset.Keeper
	stop    context.CancelFunc
	done    sync.WaitGroup
	changed chan struct{} // holds one token when dirty isn't empty

	mu     sync.Mutex // guards the following, and the kernel's state against two writers
	mtu    int
	guests map[string]*attached

	dirtyMu sync.Mutex // guards the following
	byIndex map[int]string
	dirty   map[string]bool // guests to look at
}

type attached struct {
	guest  Guest
	index  int
	mtu    int // that the guest is told of
	server *server
}

// Open starts a manager: the table against spoofing is in the kernel when it
// returns. It touches no link until it is told of its guest.
func Open(cfg Config) (*Manager, error) {
	if err := checkMTU(cfg.MTU); err != nil {
		return nil, err
	}
	watcher, err := rtevent.Open()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Manager{
		cfg: cfg, mtu: cfg.MTU, ipv6: routes.IPv6Enabled(), log: cfg.Log, watcher: watcher, stop: stop, changed: make(chan struct{}, 1),
		guests: map[string]*attached{}, byIndex: map[int]string{}, dirty: map[string]bool{},
	}
	m.done.Go(func() {
		if err := watcher.Run(ctx, m.notice); err != nil {
			m.log.Error("No more news of links; changes by others are not mended", "error", err)
		}
	})
	m.keeper, err = ruleset.Keep(guard(), m.log)
	if err != nil {
		m.Close()
		return nil, err
	}
	m.done.Go(func() {
		if err := m.keeper.Run(ctx); err != nil {
			m.log.Error("No more news of nftables; changes by others are not mended", "error", err)
		}
	})
	m.done.Go(func() { m.keep(ctx) })
	return m, nil
}

func checkMTU(mtu int) error {
	if mtu < 1280 || mtu > 65521 { // RFC 8200 section 5; the most a tap takes
		return fmt.Errorf("guests can't have an MTU of %d; it must be from 1280 to 65521", mtu)
	}
	return nil
}

// SetMTU changes what guests may send in one piece. Those that run hear of it by a router
// advertisement at once, and by DHCPv4 when they renew their lease; until then whoever
// sends too much is told so by the node.
func (m *Manager) SetMTU(mtu int) error {
	if err := checkMTU(mtu); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mtu = mtu
	var failed error
	for _, a := range m.guests {
		if err := m.settle(a.guest); err != nil {
			failed = errors.Join(failed, fmt.Errorf("tell guest %s of its MTU: %w", a.guest, err))
		}
	}
	return failed
}

// Keeper keeps the table against spoofing.
func (m *Manager) Keeper() *ruleset.Keeper { return m.keeper }

// Close ends the servers and leaves links, routes and rules as they are: guests go
// on, with leases that outlast the daemon's absence.
func (m *Manager) Close() {
	m.stop()
	m.done.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, a := range m.guests {
		a.server.close()
		delete(m.guests, id)
	}
}

// Attach makes the guest's link, or takes the one that is there, and opens it for
// QEMU: the file's descriptor is what `-netdev tap,fd=` wants, with virtio-net
// headers. The caller closes its copy once QEMU has its own. The error is ErrInUse
// when a guest holds the link already. An error leaves nothing behind that wasn't
// there before.
func (m *Manager) Attach(ctx context.Context, g Guest) (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("attach guest %s: %w", g, err) }
	if err := g.validate(); err != nil {
		return fail(err)
	}
	_, err := find(g.ID)
	made := errors.Is(err, ErrNoLink)
	if err != nil && !made {
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	file, err := openTap(linkName(g.ID))
	if err != nil {
		return fail(err)
	}
	if err := m.settle(g); err != nil {
		_ = file.Close()
		if made {
			err = errors.Join(err, m.remove(g.ID))
		}
		return fail(err)
	}
	return file, nil
}

// Adopt takes the link of a guest that runs, after a restart of the daemon: QEMU
// holds the tap, and whatever else is missing is made. The error is ErrNoLink when
// there is no tap.
func (m *Manager) Adopt(_ context.Context, g Guest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := g.validate(); err != nil {
		return fmt.Errorf("adopt guest %s: %w", g, err)
	}
	if err := m.settle(g); err != nil {
		return fmt.Errorf("adopt guest %s: %w", g, err)
	}
	return nil
}

// settle makes everything about an existing tap right. m.mu is held.
func (m *Manager) settle(g Guest) error {
	if !m.ipv6 && g.addr(true).IsValid() {
		if !g.addr(false).IsValid() {
			return errors.New("it has an IPv6 address only, and IPv6 is switched off on this host (sysctl net.ipv6.conf.all.disable_ipv6)")
		}
		m.log.Warn("IPv6 is switched off on this host; the guest gets its IPv4 address only", "guest", g.String())
		g.Addrs, g.DNS = []netip.Addr{g.addr(false)}, g.dns(false)
	}
	answers, err := newResponder(g, m.mtu)
	if err != nil {
		return err
	}
	l, err := find(g.ID)
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	for _, a := range g.Addrs {
		other, err := otherLinkOf(a, index)
		if err != nil {
			return err
		}
		if other != "" {
			return fmt.Errorf("its address %s is still routed to %s; detach that guest first", a, other)
		}
	}
	if err := m.ensure(l, g); err != nil {
		return err
	}
	old := m.guests[g.ID]
	if old != nil && old.index == index && old.mtu == m.mtu && old.guest.equal(g) {
		return nil
	}
	if old != nil {
		m.forget(g.ID)
	}
	s, err := serve(&net.Interface{Index: index, Name: l.Attrs().Name}, answers, m.log.With("guest", g.String(), "link", l.Attrs().Name))
	if err != nil {
		return err
	}
	m.guests[g.ID] = &attached{guest: g, index: index, mtu: m.mtu, server: s}
	m.dirtyMu.Lock()
	m.byIndex[index] = g.ID
	m.dirtyMu.Unlock()
	return nil
}

// Detach removes the guest's link and all that hangs on it. A guest without one is
// no error.
func (m *Manager) Detach(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.remove(id); err != nil {
		return fmt.Errorf("detach instance %s: %w", id, err)
	}
	return nil
}

// List gives the IDs of the guests whose taps are here, attached by this manager
// or left by an earlier one.
func (m *Manager) List() ([]string, error) {
	links, err := list()
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(links))
	for id := range links {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// remove deletes the tap; its addresses, neighbours and routes go with it. m.mu is
// held.
func (m *Manager) remove(id string) error {
	m.forget(id)
	l, err := find(id)
	if errors.Is(err, ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(l); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("remove %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// forget ends the guest's servers. m.mu is held.
func (m *Manager) forget(id string) {
	a := m.guests[id]
	if a == nil {
		return
	}
	m.dirtyMu.Lock()
	delete(m.byIndex, a.index)
	delete(m.dirty, id)
	m.dirtyMu.Unlock()
	a.server.close()
	delete(m.guests, id)
}

// notice marks the guests that an event concerns. What ensure does makes events
// too: only removals count for what hangs on a tap, and ensure removes nothing.
func (m *Manager) notice(e rtevent.Event) {
	m.dirtyMu.Lock()
	defer m.dirtyMu.Unlock()
	id, known := m.byIndex[e.Index]
	switch {
	case known:
		if (e.Kind == rtevent.Addr || e.Kind == rtevent.Route) && !e.Removed {
			return
		}
		m.dirty[id] = true
	case e.Kind == rtevent.Addr || e.Kind == rtevent.Lost:
		// An address of portico0: with it go all routes that have it as source,
		// and nobody says so.
		for _, id := range m.byIndex {
			m.dirty[id] = true
		}
	}
	if len(m.dirty) > 0 {
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// keep mends links until ctx ends. It gathers events for a moment first: one
// change is often several of them.
func (m *Manager) keep(ctx context.Context) {
	const moment = 10 * time.Millisecond
	timer := time.NewTimer(moment)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
		}
		timer.Reset(moment)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		m.mend()
	}
}

func (m *Manager) mend() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirtyMu.Lock()
	ids := m.dirty
	m.dirty = map[string]bool{}
	m.dirtyMu.Unlock()
	for id := range ids {
		a := m.guests[id]
		if a == nil {
			continue
		}
		l, err := find(id)
		if err == nil && l.Attrs().Index == a.index {
			err = m.ensure(l, a.guest)
		} else if err == nil || errors.Is(err, ErrNoLink) {
			m.log.Error("Somebody removed a running guest's link; restart the guest", "guest", a.guest.String(), "link", linkName(id))
			m.forget(id)
			continue
		}
		if err != nil {
			// As a rule portico0 is on its way back: its address makes us look again.
			m.log.Warn("A guest's link isn't right yet", "guest", a.guest.String(), "error", err)
		}
	}
}
