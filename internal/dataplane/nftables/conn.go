package nftables

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes of the socket's buffers. A transaction is one datagram and must fit the
// send buffer whole; 256 MiB hold about 2.5 million elements (a full load is one). The receive buffer
// holds one error for each message of a failed transaction.
const (
	sendBuffer    = 256 << 20
	receiveBuffer = 8 << 20
	// readBuffer takes any datagram of the kernel: a dump's has at most 32 KiB
	// (netlink_dump in net/netlink/af_netlink.c), an error less.
	readBuffer = 64 << 10
)

// conn is a netlink socket to nf_tables. It stays in the network namespace of
// the thread that opened it and is used by one goroutine.
type conn struct {
	fd   int
	port uint32 // our netlink port, which the kernel's notices carry
	seq  uint32
	buf  []byte
	// inKernel is the time spent in system calls so far: nf_tables works while its
	// caller waits.
	inKernel time.Duration
}

func openConn() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &conn{fd: fd, buf: make([]byte, readBuffer)}
	if err := c.setUp(); err != nil {
		c.close()
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return c, nil
}

func (c *conn) setUp() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	sa, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	c.port = sa.(*unix.SockaddrNetlink).Pid
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer},
		{unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1}, // errors with words
		{unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1}, // and without our message
	} {
		if err := unix.SetsockoptInt(c.fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) close() error { return unix.Close(c.fd) }

// message is one netlink message of nf_tables.
type message struct {
	subsystem uint16 // NFNL_SUBSYS_*; 0: nf_tables
	kind      uint16 // NFT_MSG_*
	family    uint8  // NFPROTO_*
	flags     uint16 // NLM_F_* besides NLM_F_REQUEST
	body      attrs
	what      string // for errors: "list tables"
	// explain says it where that takes time: "add 3 elements to ip map services".
	explain func() string
}

func (m *message) words() string {
	if m.explain != nil {
		return m.explain()
	}
	return m.what
}

// append writes a message with its two headers (nlmsghdr, nfgenmsg).
func (m *message) append(b []byte, seq uint32) []byte {
	return appendMessage(b, cmp.Or(m.subsystem, unix.NFNL_SUBSYS_NFTABLES)<<8|m.kind, m.flags|unix.NLM_F_REQUEST, seq, m.family, 0, m.body)
}

func appendMessage(b []byte, typ, flags uint16, seq uint32, family uint8, resource uint16, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(20+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resource)
	return append(b, body...)
}

// commit sends messages as one transaction: all of them take effect, or none.
func (c *conn) commit(msgs []message) error {
	if len(msgs) == 0 {
		return nil
	}
	size := 40
	for i := range msgs {
		size += 20 + len(msgs[i].body)
	}
	b := make([]byte, 0, size)
	begin := c.next()
	b = appendMessage(b, unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, begin, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	first := c.seq + 1
	for i := range msgs {
		m := &msgs[i]
		if i == len(msgs)-1 {
			m.flags |= unix.NLM_F_ACK // one answer for all; errors come in any case
		}
		b = m.append(b, c.next())
	}
	last := c.seq
	b = appendMessage(b, unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, c.next(), 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	if err := c.send(b); err != nil {
		return fmt.Errorf("send a transaction of %d messages, %d bytes: %w", len(msgs), len(b), err)
	}
	return c.answer(begin, last, func(seq uint32) string {
		if seq >= first && seq <= last {
			return msgs[seq-first].words()
		}
		return "commit the transaction"
	})
}

// answer waits for the acknowledgement of last or the errors of a transaction.
// The kernel queues all of them before send returns, so that once one was read
// the rest can be taken without waiting.
func (c *conn) answer(begin, last uint32, what func(uint32) string) error {
	var failed error
	for wait := true; ; wait = false {
		done := false
		n, err := c.receive(wait)
		switch {
		case !wait && errors.Is(err, unix.EAGAIN):
			return failed
		case err != nil:
			return fmt.Errorf("receive the answer to a transaction: %w", err)
		}
		err = eachMessage(c.buf[:n], func(h unix.NlMsghdr, body []byte) {
			if h.Type != unix.NLMSG_ERROR || h.Seq < begin || h.Seq > last+1 {
				return // a late answer to an earlier request
			}
			if e := messageError(h, body); e != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", what(h.Seq), e)
			} else if e == nil && h.Seq == last {
				done = true
			}
		})
		if err != nil {
			return err
		}
		if done && failed == nil {
			return nil
		}
	}
}

// dump sends a request and calls each with every answer's body behind nfgenmsg,
// until the kernel says done. The body is valid during the call only. When the
// kernel's state changed meanwhile the error is EINTR and the caller starts anew.
func (c *conn) dump(m message, each func(body []byte) error) error {
	seq := c.next()
	m.flags |= unix.NLM_F_DUMP
	if err := c.send(m.append(nil, seq)); err != nil {
		return fmt.Errorf("%s: send: %w", m.what, err)
	}
	interrupted := false
	for {
		n, err := c.receive(true)
		if err != nil {
			return fmt.Errorf("%s: receive: %w", m.what, err)
		}
		var failed error
		done := false
		err = eachMessage(c.buf[:n], func(h unix.NlMsghdr, body []byte) {
			if h.Seq != seq || done {
				return
			}
			interrupted = interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
			switch h.Type {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				failed, done = messageError(h, body), true
			default:
				if failed == nil && len(body) >= 4 {
					failed = each(body[4:])
				}
			}
		})
		switch {
		case err != nil:
			return err
		case done && failed != nil:
			return fmt.Errorf("%s: %w", m.what, failed)
		case done && interrupted:
			return fmt.Errorf("%s: the tables changed meanwhile: %w", m.what, unix.EINTR)
		case done:
			return nil
		}
	}
}

// generation gives the number of transactions that nf_tables has seen in this
// namespace, anybody's.
func (c *conn) generation() (uint32, error) {
	m := message{kind: unix.NFT_MSG_GETGEN, what: "ask for the generation"}
	seq := c.next()
	if err := c.send(m.append(nil, seq)); err != nil {
		return 0, fmt.Errorf("%s: send: %w", m.what, err)
	}
	for {
		n, err := c.receive(true)
		if err != nil {
			return 0, fmt.Errorf("%s: receive: %w", m.what, err)
		}
		found, id, refused := false, uint32(0), error(nil)
		err = eachMessage(c.buf[:n], func(h unix.NlMsghdr, body []byte) {
			switch {
			case h.Seq != seq:
			case h.Type == unix.NLMSG_ERROR:
				refused = messageError(h, body)
			case h.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN && len(body) >= 4:
				found, id = true, bigU32(find(body[4:], unix.NFTA_GEN_ID))
			}
		})
		if refused != nil {
			return 0, fmt.Errorf("%s: %w", m.what, refused)
		}
		if err != nil || found {
			return id, err
		}
	}
}

func (c *conn) next() uint32 {
	c.seq++
	return c.seq
}

func (c *conn) send(b []byte) error {
	defer c.timed(time.Now())
	return retryEINTR(func() error { return unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) })
}

func (c *conn) timed(begun time.Time) { c.inKernel += time.Since(begun) }

func (c *conn) receive(wait bool) (n int, err error) {
	defer c.timed(time.Now())
	err = retryEINTR(func() error {
		if wait {
			n, err = unix.Read(c.fd, c.buf)
		} else {
			n, _, err = unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		}
		return err
	})
	return n, err
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// eachMessage walks the messages of one datagram.
func eachMessage(b []byte, f func(h unix.NlMsghdr, body []byte)) error {
	for len(b) >= unix.NLMSG_HDRLEN {
		h := unix.NlMsghdr{
			Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
		}
		if h.Len < unix.NLMSG_HDRLEN || int(h.Len) > len(b) {
			return fmt.Errorf("netlink message of %d bytes in %d", h.Len, len(b))
		}
		f(h, b[unix.NLMSG_HDRLEN:h.Len])
		b = b[min(int(h.Len+3)&^3, len(b)):]
	}
	return nil
}

// messageError gives the error of an NLMSG_ERROR, nil for an acknowledgement.
// With NETLINK_CAP_ACK the original header follows the number, then attributes;
// the first (NLMSGERR_ATTR_MSG) is the kernel's sentence.
func messageError(h unix.NlMsghdr, body []byte) error {
	if len(body) < 4 {
		return os.NewSyscallError("netlink", unix.EBADMSG)
	}
	errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if errno == 0 {
		return nil
	}
	const attrMsg, header = 1, 4 + unix.NLMSG_HDRLEN
	if h.Flags&unix.NLM_F_ACK_TLVS != 0 && len(body) > header {
		if m := find(body[header:], attrMsg); m != nil {
			return fmt.Errorf("%s: %w", cString(m), errno)
		}
	}
	return errno
}
