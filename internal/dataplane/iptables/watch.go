package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watcher tells when somebody else changed our rules: of the nf_tables variant the kernel
// sends notices; of legacy's tables it tells on request how many rules they have and how
// large they are, which is looked at now and then.
type watcher struct {
	disturbed chan struct{} // capacity 1
	conn      *netlink.Conn // nf_tables
	asking    *netlink.Conn // likewise, for questions
	sockets   []int         // legacy, by family
	closing   chan struct{}
	group     sync.WaitGroup

	mu    sync.Mutex // guards the following; held while we write
	sizes sizes      // after our last change
}

// look is how often legacy's tables are looked at: four system calls.
const look = time.Second

func startWatcher(variant string) (*watcher, error) {
	w := &watcher{disturbed: make(chan struct{}, 1), closing: make(chan struct{})}
	if variant == Legacy {
		if err := w.startLegacy(); err != nil {
			return nil, errors.Join(err, w.close())
		}
		return w, nil
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a socket for notices of nftables: %w", err)
	}
	asking, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a socket for questions to nftables: %w", err), conn.Close())
	}
	w.conn, w.asking = conn, asking
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to notices of nftables: %w", err), w.close())
	}
	w.group.Go(w.listen)
	return w, nil
}

func (w *watcher) close() error {
	close(w.closing)
	var errs []error
	if w.conn != nil {
		errs = append(errs, w.conn.Close(), w.asking.Close())
	}
	w.group.Wait()
	for _, fd := range w.sockets {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

func (w *watcher) disturb() {
	select {
	case w.disturbed <- struct{}{}:
	default:
	}
}

// ownly runs a change of ours, which nobody is told of.
func (w *watcher) ownly(commits int, change func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == nil {
		err := change()
		w.sizes = w.measure()
		return err
	}
	if err := w.conn.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("stop listening to notices of nftables: %w", err)
	}
	before, err := w.generation()
	if err == nil {
		err = change()
	}
	if e := w.conn.JoinGroup(unix.NFNLGRP_NFTABLES); e != nil {
		return errors.Join(err, fmt.Errorf("listen to notices of nftables again: %w", e))
	}
	if after, e := w.generation(); e != nil || err == nil && after != before+uint32(commits) {
		w.disturb() // somebody else wrote meanwhile
	}
	return err
}

// generation is the number of nftables' last transaction.
func (w *watcher) generation() (uint32, error) {
	answers, err := w.asking.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4), // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of nftables: %w", err)
	}
	for _, m := range answers {
		ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
		if err != nil {
			return 0, fmt.Errorf("read the generation of nftables: %w", err)
		}
		for ad.Next() {
			if b := ad.Bytes(); ad.Type() == unix.NFTA_GEN_ID && len(b) == 4 {
				return binary.BigEndian.Uint32(b), nil
			}
		}
	}
	return 0, errors.New("the kernel didn't tell the generation of nftables")
}

// listen hears notices until the socket is closed.
func (w *watcher) listen() {
	for {
		messages, err := w.conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // news was lost: look
			w.disturb()
		case err != nil:
			return
		case slices.ContainsFunc(messages, concerns):
			w.disturb()
		}
	}
}

// concerns tells whether a notice is about our chains, or about rules that are gone from
// the kernel's chains which lead to ours.
func concerns(m netlink.Message) bool {
	kind := uint16(m.Header.Type) & 0xff
	if len(m.Data) < 4 || m.Data[0] != unix.NFPROTO_IPV4 && m.Data[0] != unix.NFPROTO_IPV6 {
		return false
	}
	names := map[uint16]string{}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	for ad.Next() {
		names[ad.Type()] = string(bytes.TrimRight(ad.Bytes(), "\x00"))
	}
	if !slices.Contains(tableNames[:], names[unix.NFTA_TABLE_NAME]) {
		return false
	}
	switch kind {
	case unix.NFT_MSG_DELTABLE:
		return true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return strings.HasPrefix(names[unix.NFTA_CHAIN_NAME], prefix) || kind == unix.NFT_MSG_DELCHAIN
	case unix.NFT_MSG_NEWRULE:
		return strings.HasPrefix(names[unix.NFTA_RULE_CHAIN], prefix)
	case unix.NFT_MSG_DELRULE:
		chain := names[unix.NFTA_RULE_CHAIN]
		return strings.HasPrefix(chain, prefix) || slices.ContainsFunc(hooks, func(h hook) bool { return h.from == chain })
	}
	return false
}

// sizes are what the kernel tells of legacy's tables, as struct ipt_getinfo.
type sizes [2 * tables][tableInfo]byte

// tableInfo is the size of struct ipt_getinfo (linux/netfilter_ipv4/ip_tables.h): a name of
// 32 bytes and 13 numbers, which struct ip6t_getinfo has likewise.
const tableInfo = 32 + 13*4

// getInfo is IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const getInfo = 64

func (w *watcher) startLegacy() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open a socket to watch the tables: %w", err)
		}
		w.sockets = append(w.sockets, fd)
	}
	w.sizes = w.measure()
	w.group.Go(func() {
		tick := time.NewTicker(look)
		defer tick.Stop()
		for {
			select {
			case <-w.closing:
				return
			case <-tick.C:
			}
			w.mu.Lock()
			if now := w.measure(); now != w.sizes {
				w.sizes = now
				w.disturb()
			}
			w.mu.Unlock()
		}
	})
	return nil
}

// measure asks for the sizes of all tables. A table that can't be asked has none.
func (w *watcher) measure() (s sizes) {
	for i, level := range []uintptr{unix.SOL_IP, unix.SOL_IPV6} {
		for t, name := range tableNames {
			info := &s[i*tables+t]
			copy(info[:], name)
			length := uint32(tableInfo)
			_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(w.sockets[i]), level, getInfo,
				uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&length)), 0)
		}
	}
	return s
}
