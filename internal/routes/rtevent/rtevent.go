package rtevent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Kind says what an Event is about.
type Kind uint8

const (
	Link       Kind = iota + 1
	Addr            // an address of a link
	Route           // a route; Index is that of its outgoing link
	Forwarding      // a link's netconf (forwarding, rp_filter and the like)
	Lost            // the kernel dropped events: look at everything
)

// Event is one change.
type Event struct {
	Kind    Kind
	Index   int  // of the link concerned; 0 when there is none or it is unknown
	Removed bool // gone, as opposed to new or changed
}

// netconfIfindex is NETCONFA_IFINDEX of linux/netconf.h; -1 is "all", -2 "default".
const netconfIfindex = 1

// Watcher is an open subscription.
type Watcher struct{ conn *netlink.Conn }

// Open subscribes. What changes after Open returns is reported by Run.
func Open() (*Watcher, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for news of links: %w", err)
	}
	// A start of many guests makes hundreds of messages at once. More than this
	// is no error, only a Lost event and a full look.
	if err := conn.SetReadBuffer(1 << 20); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("enlarge a netlink socket's buffer: %w", err)
	}
	for _, group := range []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	} {
		if err := conn.JoinGroup(group); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("subscribe to rtnetlink group %d: %w", group, err)
		}
	}
	return &Watcher{conn: conn}, nil
}

// Run hands every event to f, in order, until ctx ends, and closes the
// subscription. It returns nil when ctx ended it.
func (w *Watcher) Run(ctx context.Context, f func(Event)) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.Close() })
	defer func() {
		if stop() {
			_ = w.conn.Close()
		}
	}()
	for {
		messages, err := w.conn.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.ENOBUFS) {
			f(Event{Kind: Lost})
			continue
		}
		if err != nil {
			return fmt.Errorf("receive news of links: %w", err)
		}
		for _, m := range messages {
			if e, ok := parse(m); ok {
				f(e)
			}
		}
	}
}

// parse reads the fixed headers of rtnetlink(7).
func parse(m netlink.Message) (Event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return Event{}, false
		}
		index := int(int32(binary.NativeEndian.Uint32(m.Data[4:8])))
		return Event{Kind: Link, Index: index, Removed: m.Header.Type == unix.RTM_DELLINK}, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return Event{}, false
		}
		index := int(binary.NativeEndian.Uint32(m.Data[4:8]))
		return Event{Kind: Addr, Index: index, Removed: m.Header.Type == unix.RTM_DELADDR}, true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		index, ok := attribute(m.Data, unix.SizeofRtMsg, unix.RTA_OIF)
		return Event{Kind: Route, Index: index, Removed: m.Header.Type == unix.RTM_DELROUTE}, ok
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		// struct netconfmsg is one byte, padded to four.
		index, ok := attribute(m.Data, 4, netconfIfindex)
		return Event{Kind: Forwarding, Index: index, Removed: m.Header.Type == unix.RTM_DELNETCONF}, ok
	}
	return Event{}, false
}

// attribute finds a 32-bit attribute behind a fixed header of size bytes; it is
// 0 when the message has none.
func attribute(data []byte, size int, want uint16) (int, bool) {
	if len(data) < size {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(data[size:])
	if err != nil {
		return 0, false
	}
	found := 0
	for ad.Next() {
		if ad.Type() == want {
			found = int(int32(ad.Uint32()))
		}
	}
	return found, ad.Err() == nil
}
