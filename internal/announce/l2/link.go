package l2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// link is one link with its sockets. Two goroutines read and answer.
type link struct {
	iface
	log   *slog.Logger
	owner responder
	arp   *packet.Conn
	ndp   *packet.Conn
	ended chan struct{}
	group sync.WaitGroup

	// groups are joined by the goroutine that decides, and by nobody else.
	groups *groups
}

// responder is what those who read frames ask.
type responder interface {
	// holds tells whether this node answers for an address on a link, now.
	holds(addr netip.Addr, link string) bool
	// claimed is told that a host says it has an address.
	claimed(addr netip.Addr, link string, by mac)
	answered(ipv6 bool)
}

func openLink(i iface, owner responder, log *slog.Logger) (_ *link, err error) {
	l := &link{iface: i, log: log.With("link", i.name), owner: owner, groups: newGroups(i.index), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.arp, err = packet.Listen(i.net(), packet.Raw, unix.ETH_P_ARP, nil); err != nil {
		return nil, fmt.Errorf("open a socket for ARP on link %s: %w", i.name, err)
	}
	filter, err := ndFilter()
	if err != nil {
		return nil, fmt.Errorf("make the filter for neighbour discovery: %w", err)
	}
	if l.ndp, err = packet.Listen(i.net(), packet.Raw, unix.ETH_P_IPV6, &packet.Config{Filter: filter}); err != nil {
		return nil, fmt.Errorf("open a socket for neighbour discovery on link %s: %w", i.name, err)
	}
	l.group.Go(func() { l.read(l.arp, l.takeARP) })
	l.group.Go(func() { l.read(l.ndp, l.takeND) })
	return l, nil
}

// close ends the readers and waits for them.
func (l *link) close() {
	close(l.ended)
	for _, c := range []*packet.Conn{l.arp, l.ndp} {
		if c != nil {
			c.Close() //nolint:errcheck // nothing was written
		}
	}
	l.group.Wait()
	l.groups.close()
}

func (l *link) read(conn *packet.Conn, take func([]byte) []byte) {
	buffer := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buffer)
		select {
		case <-l.ended:
			return
		default:
		}
		switch {
		case errors.Is(err, unix.ENETDOWN): // said once when the link goes down
			continue
		case err != nil:
			l.log.Error("Neighbours' questions are no longer heard", "error", err)
			return
		}
		if answer := take(buffer[:n]); answer != nil {
			l.write(conn, answer)
		}
	}
}

func (l *link) write(conn *packet.Conn, frame []byte) {
	if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		l.log.Log(context.Background(), slog.LevelDebug, "A frame was not sent", "error", err)
	}
}

// takeARP gives the answer to a frame, or nil.
func (l *link) takeARP(frame []byte) []byte {
	a, ok := parseARP(frame)
	if !ok || a.source == l.mac {
		return nil
	}
	if a.senderIP != netip.IPv4Unspecified() && a.sender != l.mac && l.owner.holds(a.senderIP, l.name) {
		l.owner.claimed(a.senderIP, l.name, a.sender)
		return nil
	}
	if a.op != arpRequest || a.senderIP == a.targetIP || !l.owner.holds(a.targetIP, l.name) {
		return nil
	}
	l.owner.answered(false)
	return arpAnswer(a, l.mac)
}

// takeND likewise.
func (l *link) takeND(frame []byte) []byte {
	n, ok := parseND(frame)
	if !ok || n.source == l.mac || !l.owner.holds(n.target, l.name) {
		return nil
	}
	if n.kind == advertisement {
		if n.owner != l.mac {
			l.owner.claimed(n.target, l.name, n.owner)
		}
		return nil
	}
	l.owner.answered(true)
	return ndAnswer(n, l.mac)
}

// announce tells all neighbours that the address is here.
func (l *link) announce(addr netip.Addr) {
	if addr.Is6() {
		l.write(l.ndp, ndAnnouncement(addr, l.mac))
		return
	}
	for _, f := range arpAnnouncements(addr, l.mac) {
		l.write(l.arp, f)
	}
}

// probe has another owner of the address make itself known.
func (l *link) probe(addr netip.Addr) {
	if addr.Is6() {
		l.write(l.ndp, ndProbe(addr, l.mac))
		return
	}
	l.write(l.arp, arpProbe(addr, l.mac))
}
