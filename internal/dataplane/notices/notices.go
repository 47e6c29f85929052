package notices

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/ruleset"
)

// writeBuffer holds a transaction whole: some 200 bytes for each element.
const writeBuffer = 64 << 20

// Listener tells when somebody else changed the tables of a name.
type Listener struct {
	table     string
	writer    *nftables.Conn
	disturbed chan struct{} // capacity 1
	conn      *netlink.Conn
	done      chan struct{}
}

// Open gives a connection for writing the tables of a name, with room for large transactions,
// and one that hears who else writes them. Closing the Listener closes both.
func Open(table string) (*nftables.Conn, *Listener, error) {
	var own uint32
	writer, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) (err error) {
		own, err = portOf(c)
		return errors.Join(err, c.SetWriteBuffer(writeBuffer), c.SetReadBuffer(writeBuffer))
	}))
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	conn, err := listen(own)
	if err != nil {
		return nil, nil, errors.Join(err, writer.CloseLasting())
	}
	l := &Listener{table: table, writer: writer, disturbed: make(chan struct{}, 1), conn: conn, done: make(chan struct{})}
	go l.run()
	return writer, l, nil
}

// listen hears all notices but those of one writer's netlink port.
func listen(own uint32) (*netlink.Conn, error) {
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
	return conn, nil
}

// portOf gives the port by which a socket writes.
func portOf(c *netlink.Conn) (uint32, error) {
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

// Unheard runs f, which fills tables that are new. Meanwhile nobody is heard: for who listens,
// the kernel makes a notice of each element, which costs more than the element. The caller
// looks afterwards whether the tables are there.
func (n *Listener) Unheard(f func() error) error {
	if err := n.conn.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("leave the notices of nftables: %w", err)
	}
	err := f()
	if again := n.conn.JoinGroup(unix.NFNLGRP_NFTABLES); again != nil {
		err = errors.Join(err, fmt.Errorf("listen to notices of nftables: %w", again))
	}
	return err
}

// Close ends the listening and the writer's connection.
func (n *Listener) Close() error {
	err := n.conn.Close()
	<-n.done
	return errors.Join(err, n.writer.CloseLasting())
}

// Disturbed gets a value when somebody else wrote.
func (n *Listener) Disturbed() <-chan struct{} { return n.disturbed }
