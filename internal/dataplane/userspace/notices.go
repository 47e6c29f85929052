package userspace

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/ruleset"
)

// notices tell when somebody else changed our tables.
type notices struct {
	disturbed chan struct{} // capacity 1
	conn      *netlink.Conn
	done      chan struct{}
}

// listen hears the notices of nftables, but for those of one writer's netlink port.
func listen(own uint32) (*notices, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a socket for notices of nftables: %w", err)
	}
	var ignored error
	err = control(conn, func(fd int) { ignored = ruleset.IgnoreWriter(fd, own) })
	if err = errors.Join(err, ignored); err == nil {
		err = conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return nil, fmt.Errorf("listen to notices of nftables: %w", errors.Join(err, conn.Close()))
	}
	n := &notices{disturbed: make(chan struct{}, 1), conn: conn, done: make(chan struct{})}
	go n.run()
	return n, nil
}

// writerOf gives the port by which a socket writes.
func writerOf(c *netlink.Conn) (uint32, error) {
	var name unix.Sockaddr
	var asked error
	err := control(c, func(fd int) { name, asked = unix.Getsockname(fd) })
	if err = errors.Join(err, asked); err != nil {
		return 0, err
	}
	return name.(*unix.SockaddrNetlink).Pid, nil
}

func control(c *netlink.Conn, f func(fd int)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// attribute gives one attribute of a message of nftables, behind struct nfgenmsg.
func attribute(m netlink.Message, kind uint16) ([]byte, bool) {
	if len(m.Data) < 4 {
		return nil, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return nil, false
	}
	for ad.Next() {
		if ad.Type() == kind {
			return ad.Bytes(), true
		}
	}
	return nil, false
}

// run hears until the socket is closed.
func (n *notices) run() {
	defer close(n.done)
	for {
		messages, err := n.conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // news was lost: look
			n.disturb()
		case err != nil:
			return
		case slices.ContainsFunc(messages, concerns):
			n.disturb()
		}
	}
}

// concerns tells whether a message is about our tables: attribute 1 names the table in all
// kinds but the generation's, where it is a number.
func concerns(m netlink.Message) bool {
	if uint16(m.Header.Type)&0xff == unix.NFT_MSG_NEWGEN {
		return false
	}
	name, _ := attribute(m, unix.NFTA_TABLE_NAME)
	return string(bytes.TrimRight(name, "\x00")) == Table
}

func (n *notices) disturb() {
	select {
	case n.disturbed <- struct{}{}:
	default:
	}
}

func (n *notices) close() error {
	err := n.conn.Close()
	<-n.done
	return err
}
