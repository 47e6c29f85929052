package ruleset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Keeper keeps one table in the kernel.
type Keeper struct {
	name string // the table's, which never changes
	log  *slog.Logger
	conn *netlink.Conn // news of nftables

	mu    sync.Mutex // guards the following, and the kernel's table against two writers
	table Table
	have  state
}

// Keep writes the table and watches it from then on; Run must be called.
func Keep(t Table, log *slog.Logger) (*Keeper, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for news of nftables: %w", err)
	}
	k := &Keeper{name: t.Name, log: log, conn: conn}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("subscribe to news of nftables: %w", err)
	}
	if err := k.Replace(t); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return k, nil
}

// Replace writes another version of the table, of the same name.
func (k *Keeper) Replace(t Table) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.apply(t)
}

func (k *Keeper) apply(t Table) error {
	if err := t.Apply(); err != nil {
		return err
	}
	have, err := t.read()
	if err != nil {
		return err
	}
	if !t.complete(have) {
		return fmt.Errorf("nftables table inet %s was changed by somebody while it was written", t.Name)
	}
	k.table, k.have = t, have
	return nil
}

// Run puts the table back whenever somebody changes it, until ctx ends; then it
// leaves the table where it is and returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = k.conn.Close() })
	defer func() {
		if stop() {
			_ = k.conn.Close()
		}
	}()
	for { // what happened since Keep is among the first news
		messages, err := k.conn.Receive()
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case errors.Is(err, unix.ENOBUFS): // the kernel dropped news: look
			k.check()
		case err != nil:
			return fmt.Errorf("receive news of nftables: %w", err)
		case slices.ContainsFunc(messages, k.concerns):
			k.check()
		}
	}
}

// concerns tells whether a message may mean that our table changed. The Services'
// data plane changes its own tables often: those messages end here.
func (k *Keeper) concerns(m netlink.Message) bool {
	switch uint16(m.Header.Type) & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_NEWRULE:
	default:
		return false
	}
	// struct nfgenmsg is four bytes; attribute 1 names the table in all four.
	if len(m.Data) < 4 {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			return string(bytes.TrimRight(ad.Bytes(), "\x00")) == k.name
		}
	}
	return false
}

// check compares and mends. Our own writes are news too: they compare equal.
func (k *Keeper) check() {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, err := k.table.read()
	if err == nil && maps.EqualFunc(have, k.have, slices.Equal[[]uint64]) {
		return
	}
	if err := k.apply(k.table); err != nil {
		k.log.Error("Can't put our nftables table back", "table", k.name, "error", err)
		return
	}
	k.log.Warn("Somebody changed our nftables table; it is back", "table", k.name)
}
