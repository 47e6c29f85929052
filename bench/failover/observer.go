package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/network"
)

const (
	// probeEach is how often the observer asks who has the address, and how fine it sees
	// two owners.
	probeEach = 10 * time.Millisecond
	// arpSize is an Ethernet frame with ARP for IPv4 (RFC 826).
	arpSize = 42
)

// observer hears all ARP on the LAN and asks for the Service's address all the time. It is
// a host of its own: answers to it teach the client nothing.
type observer struct {
	fd    int
	own   net.HardwareAddr
	ended chan struct{}
	group sync.WaitGroup

	mu     sync.Mutex // guards the following
	claims map[netip.Addr]claim
	moves  []claim // of the Service's address
	slots  []slot
}

// claim is what a host said: that an address is its own.
type claim struct {
	mac string
	at  time.Time // since when nobody else said so
}

// slot is the time from one question to the next.
type slot struct {
	begin time.Time
	by    []string // who answered
}

func observe(h *network.Host) (*observer, error) {
	link, err := h.Links.LinkByName(uplink)
	if err != nil {
		return nil, fmt.Errorf("observe the LAN: %w", err)
	}
	o := &observer{own: link.Attrs().HardwareAddr, ended: make(chan struct{}), claims: map[netip.Addr]claim{}}
	arp := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ARP))
	if err := h.Do(func() (err error) {
		if o.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(arp)); err != nil {
			return err
		}
		return unix.Bind(o.fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: link.Attrs().Index})
	}); err != nil {
		return nil, fmt.Errorf("observe the LAN: %w", err)
	}
	// The reader looks from time to time whether it is to end.
	if err := unix.SetsockoptTimeval(o.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return nil, fmt.Errorf("observe the LAN: %w", err)
	}
	o.group.Go(o.read)
	o.group.Go(o.ask)
	return o, nil
}

func (o *observer) close() {
	if o == nil {
		return
	}
	close(o.ended)
	o.group.Wait()
	_ = unix.Close(o.fd)
}

func (o *observer) over() bool {
	select {
	case <-o.ended:
		return true
	default:
		return false
	}
}

func (o *observer) ask() {
	question := slices.Concat(bytes.Repeat([]byte{0xff}, 6), o.own, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
		o.own, observerAddress.Addr().AsSlice(), make([]byte, 6), webAddress.AsSlice())
	tick := time.NewTicker(probeEach)
	defer tick.Stop()
	for {
		select {
		case <-o.ended:
			return
		case <-tick.C:
			o.mu.Lock()
			o.slots = append(o.slots, slot{begin: time.Now()})
			o.mu.Unlock()
			_, _ = unix.Write(o.fd, question) // the next one comes soon
		}
	}
}

func (o *observer) read() {
	b := make([]byte, 2048)
	for !o.over() {
		n, err := unix.Read(o.fd, b)
		if err == nil && n >= arpSize {
			o.hear(b[:n], time.Now())
		}
	}
}

// hear notes who says that it has an address: the sender of any ARP message does.
func (o *observer) hear(frame []byte, now time.Time) {
	addr, mac := netip.AddrFrom4([4]byte(frame[28:32])), net.HardwareAddr(frame[22:28]).String()
	if addr != webAddress && !manyRange.Contains(addr) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.claims[addr].mac != mac {
		o.claims[addr] = claim{mac, now}
		if addr == webAddress {
			o.moves = append(o.moves, claim{mac, now})
		}
	}
	if n := len(o.slots); addr == webAddress && n > 0 && bytes.Equal(frame[:6], o.own) && !slices.Contains(o.slots[n-1].by, mac) {
		o.slots[n-1].by = append(o.slots[n-1].by, mac)
	}
}

// movedFrom is when another host than the one first said that it has the Service's
// address, after a moment.
func (o *observer) movedFrom(mac net.HardwareAddr, begin time.Time) (at time.Time, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.moves {
		if m.at.After(begin) && m.mac != mac.String() {
			return m.at, true
		}
	}
	return time.Time{}, false
}

// owner is the hardware address that last claimed the Service's address.
func (o *observer) owner() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.claims[webAddress].mac
}

// changes is how often the Service's address changed hands since a moment.
func (o *observer) changes(since time.Time) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.moves {
		if m.at.After(since) {
			n++
		}
	}
	return n
}

// answered is how long after a moment somebody first answered for the Service's address.
func (o *observer) answered(begin time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.slots {
		if len(s.by) > 0 && s.begin.After(begin) {
			return s.begin.Sub(begin)
		}
	}
	return 0
}

// twoOwners is how long two hosts answered for the Service's address within a time.
func (o *observer) twoOwners(begin, end time.Time) (sum time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, s := range o.slots {
		if len(s.by) > 1 && !s.begin.Before(begin) && s.begin.Before(end) && i+1 < len(o.slots) {
			sum += o.slots[i+1].begin.Sub(s.begin)
		}
	}
	return sum
}

// owners gives who has each of the many addresses.
func (o *observer) owners() map[netip.Addr]claim {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[netip.Addr]claim{}
	for addr, c := range o.claims {
		if addr != webAddress {
			out[addr] = c
		}
	}
	return out
}
