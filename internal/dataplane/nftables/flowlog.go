package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
)

// The rules send records to two groups of nfnetlink_log: of the first packet of each UDP flow to
// a frontend, before it is translated; and of packets that go astray (see strays.go). Nobody needs to
// listen: without a listener the kernel goes on at once. Events of conntrack would
// tell the same, but while anybody listens to them the kernel makes one for each
// TCP connection too; and they are the machine's to configure (nf_conntrack_events).

const (
	// recordGroup is "po", for who looks at the list of rules; strayGroup the one after.
	recordGroup = 0x706f
	strayGroup  = recordGroup + 1
	// recordRange holds an IPv4 header with options and the ports, or IPv6 with
	// extension headers of usual size.
	recordRange = 128
)

// Numbers of linux/netfilter/nfnetlink_log.h.
const (
	nfulnlPacket, nfulnlConfig    = 0, 1
	nfulaPayload                  = 9
	nfulaCfgCmd, nfulaCfgMode     = 1, 2
	nfulaCfgSize, nfulaCfgQThresh = 3, 5
	nfulnlBind, nfulnlUnbind      = 1, 2
	nfulnlCopyPacket              = 2
)

// bindRecords asks for the group's records, each at once and in a buffer of its own size:
// the kernel's usual 4 KiB would fill the socket.
func bindRecords() (a attrs) {
	const size = 512
	a.bytes(nfulaCfgCmd, []byte{nfulnlBind})
	a.bytes(nfulaCfgMode, append(binary.BigEndian.AppendUint32(nil, recordRange), nfulnlCopyPacket, 0))
	a.u32(nfulaCfgSize, size)
	a.u32(nfulaCfgQThresh, 1)
	return a
}

func unbindRecords() (a attrs) {
	a.bytes(nfulaCfgCmd, []byte{nfulnlUnbind})
	return a
}

// logRecord is the expression that sends a record.
func logRecord(group uint16) expr {
	return expression("log", func(a *attrs) { a.bytes(unix.NFTA_LOG_GROUP, binary.BigEndian.AppendUint16(nil, group)) })
}

// followed has the flows of frontends reported: nat chains see first packets only.
func followed() ruleSpec {
	return rule("flows to follow", isProtocol(unix.IPPROTO_UDP), one(logRecord(recordGroup)))
}

// record is what we are told of a packet.
type record struct {
	protocol catalog.Protocol
	client   netip.AddrPort
	door     door
}

var errRecord = errors.New("record of a packet that makes no sense")

// eachRecord walks the records of one datagram. One that can't be read is an error,
// for its flow isn't known then.
func eachRecord(b []byte, take func(record)) error {
	var failed error
	err := eachMessage(b, func(h unix.NlMsghdr, body []byte) {
		if h.Type != unix.NFNL_SUBSYS_ULOG<<8|nfulnlPacket || failed != nil {
			return
		}
		if len(body) < 4 {
			failed = errRecord
			return
		}
		r, err := parsePacket(find(body[4:], nfulaPayload))
		if err != nil {
			failed = err
			return
		}
		take(r)
	})
	return errors.Join(err, failed)
}

// parsePacket reads the beginning of a packet of UDP, TCP or SCTP from the network header on.
func parsePacket(b []byte) (r record, err error) {
	if len(b) < 1 {
		return r, errRecord
	}
	var src, dst netip.Addr
	var proto byte
	switch b[0] >> 4 {
	case 4: // RFC 791
		header := int(b[0]&0xf) * 4
		if header < 20 || len(b) < header {
			return r, errRecord
		}
		proto = b[9]
		src, dst, b = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[header:]
	case 6: // RFC 8200
		if len(b) < 40 {
			return r, errRecord
		}
		proto = b[6]
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		if proto, b, err = skipExtensions(proto, b[40:]); err != nil {
			return r, err
		}
	}
	r.protocol = catalog.Protocol(proto)
	switch r.protocol {
	case catalog.UDP, catalog.TCP, catalog.SCTP: // all begin with the ports
	default:
		return r, errRecord
	}
	if len(b) < 4 {
		return r, errRecord
	}
	port := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	return record{protocol: r.protocol, client: netip.AddrPortFrom(src, port(0)), door: netip.AddrPortFrom(dst, port(2))}, nil
}

// skipExtensions passes the headers of RFC 8200 section 4 by. Fragments are put
// together before NAT.
func skipExtensions(next byte, b []byte) (byte, []byte, error) {
	for {
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
		case unix.IPPROTO_FRAGMENT: // its length field is reserved, and zero: eight bytes
		default:
			return next, b, nil
		}
		if len(b) < 8 {
			return 0, nil, fmt.Errorf("%w: extension headers of more than %d bytes", errRecord, recordRange)
		}
		n := 8 + int(b[1])*8
		if next == unix.IPPROTO_FRAGMENT {
			n = 8
		}
		if len(b) < n {
			return 0, nil, fmt.Errorf("%w: extension headers of more than %d bytes", errRecord, recordRange)
		}
		next, b = b[0], b[n:]
	}
}

// recordSocket takes the records of one group.
type recordSocket struct {
	group uint16
	file  *os.File // non-blocking netlink socket
	raw   syscall.RawConn
	buf   []byte
	seq   uint32
	bound bool // records come
}

// openRecords opens a socket in the calling thread's network namespace, with room for so many
// bytes. Records come once it is bound.
func openRecords(group uint16, room int) (*recordSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	s := &recordSocket{group: group, file: os.NewFile(uintptr(fd), "records of flows"), buf: make([]byte, 1<<16)}
	s.raw, err = s.file.SyscallConn()
	if err == nil {
		err = errors.Join(
			unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room))
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// configure sends one message about the records.
func (s *recordSocket) configure(body attrs) (err error) {
	s.seq++
	m := appendMessage(nil, unix.NFNL_SUBSYS_ULOG<<8|nfulnlConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK, s.seq, unix.AF_UNSPEC, s.group, body)
	if e := s.raw.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); e != nil {
		return e
	}
	return err
}

// bind has records come. It fails where another program has the group.
func (s *recordSocket) bind(take func(record)) error {
	if s.bound {
		return nil
	}
	if err := s.configure(bindRecords()); err != nil {
		return err
	}
	answered, refusal := false, error(nil)
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		// The kernel has queued its answer behind what came before.
		for !answered {
			n, _, err := unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS):
				continue
			case err != nil:
				failed = err
				return
			}
			failed = eachMessage(s.buf[:n], func(h unix.NlMsghdr, body []byte) {
				if h.Type == unix.NLMSG_ERROR && h.Seq == s.seq {
					answered, refusal = true, messageError(h, body)
				}
			})
			if failed == nil && !answered {
				failed = eachRecord(s.buf[:n], take)
			}
			if failed != nil {
				return
			}
		}
	})
	if err = errors.Join(err, failed, refusal); err != nil {
		return fmt.Errorf("ask for records of group %d: %w", s.group, err)
	}
	s.bound = true
	return nil
}

// unbind stops the records.
func (s *recordSocket) unbind() error {
	s.bound = false
	return s.configure(unbindRecords())
}

// drain takes the records that wait in the descriptor, and reports whether anything did. lost
// is told why some can't be taken.
func (s *recordSocket) drain(fd int, take func(record), lost func(why string)) (any bool) {
	for {
		n, _, err := unix.Recvfrom(fd, s.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			any = true
			lost("more flows began than could be taken")
			continue
		case err != nil:
			return any
		}
		any = true
		if !s.bound {
			continue
		}
		if err := eachRecord(s.buf[:n], take); err != nil {
			lost(err.Error())
		}
	}
}
