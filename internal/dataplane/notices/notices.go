package notices

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/ruleset"
)

// Listener tells when somebody else changed the tables of a name.
type Listener struct {
	table     string
	disturbed chan struct{} // capacity 1
	conn      *netlink.Conn
	done      chan struct{}
}

// Listen hears the notices about tables of a name, but for those of one writer's netlink port.
func Listen(table string, own uint32) (*Listener, error) {
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
	n := &Listener{table: table, disturbed: make(chan struct{}, 1), conn: conn, done: make(chan struct{})}
	go n.run()
	return n, nil
}

// WriterOf gives the port by which a socket writes.
func WriterOf(c *netlink.Conn) (uint32, error) {
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
func (n *Listener) run() {
	defer close(n.done)
	for {
		messages, err := n.conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // news was lost: look
			n.Disturb()
		case err != nil:
			return
		case slices.ContainsFunc(messages, n.concerns):
			n.Disturb()
		}
	}
}

// concerns tells whether a message is about our tables: attribute 1 names the table in all
// kinds but the generation's, where it is a number.
func (n *Listener) concerns(m netlink.Message) bool {
	if uint16(m.Header.Type)&0xff == unix.NFT_MSG_NEWGEN {
		return false
	}
	name, _ := attribute(m, unix.NFTA_TABLE_NAME)
	return string(bytes.TrimRight(name, "\x00")) == n.table
}

// Disturb has Disturbed get a value.
func (n *Listener) Disturb() {
	select {
	case n.disturbed <- struct{}{}:
	default:
	}
}

// Close ends the listening.
func (n *Listener) Close() error {
	err := n.conn.Close()
	<-n.done
	return err
}

// Disturbed gets a value when somebody else wrote.
func (n *Listener) Disturbed() <-chan struct{} { return n.disturbed }
