package lanprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// rounds: a question may be lost, and a host may sleep.
	rounds = 3
	// pace between two questions: a thousand in a second is what a slow switch bears.
	pace = time.Millisecond
	// patience after the last question of a round. Hosts on a LAN answer in
	// milliseconds; RFC 5227 waits one to two seconds in all.
	patience = 400 * time.Millisecond
)

// Result is what was found out.
type Result struct {
	// Taken are the addresses that somebody has; a nil hardware address is this host's own.
	Taken map[netip.Addr]net.HardwareAddr
	// Unasked are those that are of no network of this host's links.
	Unasked []netip.Addr
}

// link is one that some of the addresses are neighbours on.
type link struct {
	*net.Interface
	four, six []netip.Addr
}

// Ask asks for each address on the link whose network it is of. It takes about two seconds
// and needs the capability CAP_NET_RAW.
func Ask(ctx context.Context, addrs []netip.Addr) (Result, error) {
	result := Result{Taken: map[netip.Addr]net.HardwareAddr{}}
	links, err := assign(addrs, &result)
	if err != nil {
		return result, err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the following
	var errs []error
	for _, l := range links {
		for _, ask := range []func(context.Context, *link, func(netip.Addr, net.HardwareAddr)) error{askARP, askND} {
			wg.Go(func() {
				err := ask(ctx, l, func(addr netip.Addr, mac net.HardwareAddr) {
					mu.Lock()
					defer mu.Unlock()
					result.Taken[addr] = mac
				})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, fmt.Errorf("ask on link %s: %w", l.Name, err))
				}
			})
		}
	}
	wg.Wait()
	return result, errors.Join(append(errs, ctx.Err())...)
}

// assign finds the link of each address.
func assign(addrs []netip.Addr, result *Result) ([]*link, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	var links []*link
	networks := map[netip.Prefix]*link{}
	for i := range interfaces {
		l := &link{Interface: &interfaces[i]}
		const needed = net.FlagUp | net.FlagBroadcast
		if l.Flags&needed != needed || len(l.HardwareAddr) != 6 {
			continue
		}
		own, err := l.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of link %s: %w", l.Name, err)
		}
		links = append(links, l)
		for _, a := range own {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				networks[prefix] = l
			}
		}
	}
	for _, addr := range addrs {
		l, own := nearest(networks, addr)
		switch {
		case own:
			result.Taken[addr] = nil
		case l == nil:
			result.Unasked = append(result.Unasked, addr)
		case addr.Is4():
			l.four = append(l.four, addr)
		default:
			l.six = append(l.six, addr)
		}
	}
	return links, nil
}

// nearest gives the link with the longest prefix around addr, and whether it is the host's
// own address.
func nearest(networks map[netip.Prefix]*link, addr netip.Addr) (best *link, own bool) {
	bits := -1
	for prefix, l := range networks {
		if prefix.Addr() == addr {
			return l, true
		}
		if prefix.Contains(addr) && prefix.Bits() > bits {
			best, bits = l, prefix.Bits()
		}
	}
	return best, false
}

// ask sends the questions while hear reads answers, until both have ended. hear returns when
// its socket's deadline is over.
func ask(ctx context.Context, addrs []netip.Addr, send func(netip.Addr) error, deadline func(time.Time) error, hear func()) error {
	end := time.Now().Add(rounds * (time.Duration(len(addrs))*pace + patience))
	if err := deadline(end); err != nil {
		return err
	}
	var hearing sync.WaitGroup
	hearing.Go(hear)
	defer hearing.Wait()
	defer func() { _ = deadline(time.Now()) }() // hear ends with it
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for range rounds {
		for _, addr := range addrs {
			if err := send(addr); err != nil {
				return fmt.Errorf("ask for %s: %w", addr, err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(patience):
		}
	}
	return nil
}
