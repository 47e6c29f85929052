package dns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams one system call takes from a socket or hands to
	// it. One by one a query costs two calls, which are most of what it costs at all; a
	// burst that is waiting shares them. More than this saves nothing measurable.
	batchSize = 32
	// slack is what an answer may be longer than its limit while it is written: it is
	// cut after an SOA was put behind it, which has three names at most.
	slack = 1024
)

// batch reads datagrams from one socket and writes the replies to their senders,
// many with one system call (recvmmsg(2), sendmmsg(2)). One goroutine uses it. It
// allocates nothing after newBatch.
type batch struct {
	raw   syscall.RawConn
	in    [batchSize]mmsghdr
	out   [batchSize]mmsghdr
	inIOV [batchSize]unix.Iovec
	// outIOV and from belong to out as inIOV does to in; from is shared: a reply goes
	// where the query came from, in the kernel's own words.
	outIOV  [batchSize]unix.Iovec
	from    [batchSize]unix.RawSockaddrInet6
	queries [batchSize][]byte
	replies [batchSize][]byte

	queued int // of out
	sent   int

	// What the functions below, which RawConn calls, return. They are made once: a
	// closure for each call would be an allocation.
	got                 int
	err                 error
	receiveNow, sendNow func(fd uintptr) bool
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	size uint32 // what was received
}

func newBatch(conn *net.UDPConn) (*batch, error) {
	b := &batch{}
	var err error
	if b.raw, err = conn.SyscallConn(); err != nil {
		return nil, fmt.Errorf("DNS: use the socket of %s: %w", conn.LocalAddr(), err)
	}
	queries := make([]byte, batchSize*maxUDP)
	replies := make([]byte, batchSize*(maxUDP+slack))
	for i := range batchSize {
		b.queries[i] = queries[i*maxUDP : (i+1)*maxUDP]
		b.replies[i] = replies[i*(maxUDP+slack) : i*(maxUDP+slack) : (i+1)*(maxUDP+slack)]
		b.inIOV[i].Base = &b.queries[i][0]
		b.inIOV[i].SetLen(maxUDP)
		b.in[i].Iov, b.out[i].Iov = &b.inIOV[i], &b.outIOV[i]
		b.in[i].SetIovlen(1)
		b.out[i].SetIovlen(1)
		b.in[i].Name = (*byte)(unsafe.Pointer(&b.from[i]))
	}
	b.receiveNow = func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in)), batchSize, unix.MSG_DONTWAIT, 0, 0)
		b.got, b.err = int(n), nil
		if errno != 0 {
			b.got, b.err = 0, errno
		}
		return errno != unix.EAGAIN
	}
	b.sendNow = func(fd uintptr) bool {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.queued-b.sent), unix.MSG_DONTWAIT, 0, 0)
		b.got, b.err = int(n), nil
		if errno != 0 {
			b.got, b.err = 0, errno
		}
		return errno != unix.EAGAIN
	}
	return b, nil
}

// receive waits for datagrams and returns how many there are.
func (b *batch) receive() (int, error) {
	for i := range b.in {
		b.in[i].Namelen = unix.SizeofSockaddrInet6
	}
	if err := b.raw.Read(b.receiveNow); err != nil {
		return 0, err
	}
	return b.got, b.err
}

// query is the i-th datagram, good until the next receive.
func (b *batch) query(i int) []byte { return b.queries[i][:b.in[i].size] }

// reply is where the answer to the i-th may be written.
func (b *batch) reply(i int) []byte { return b.replies[i] }

// client is the i-th sender. What isn't IP gives the zero Addr.
func (b *batch) client(i int) netip.Addr {
	switch sa := &b.from[i]; sa.Family {
	case unix.AF_INET:
		var raw [4]byte
		binary.NativeEndian.PutUint32(raw[:], sa.Flowinfo) // what stands here in IPv6's address
		return netip.AddrFrom4(raw)
	case unix.AF_INET6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

// sender is client with the port, and with the link where the address is one of a
// link's own.
func (b *batch) sender(i int) netip.AddrPort {
	sa := &b.from[i]
	a := b.client(i)
	if a.Is6() && sa.Scope_id != 0 {
		a = a.WithZone(strconv.Itoa(int(sa.Scope_id)))
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], sa.Port) // which is in the network's order
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port[:]))
}

// queue has the next flush send a reply to the i-th sender.
func (b *batch) queue(i int, reply []byte) {
	o := &b.out[b.queued]
	o.Name, o.Namelen = b.in[i].Name, b.in[i].Namelen
	o.Iov.Base = &reply[0]
	o.Iov.SetLen(len(reply))
	b.queued++
}

// flush sends what was queued. A client that can't be reached is the client's affair:
// the others get theirs.
func (b *batch) flush() error {
	for b.sent = 0; b.sent < b.queued; {
		if err := b.raw.Write(b.sendNow); err != nil {
			b.queued = 0
			return err
		}
		b.sent += max(b.got, 1) // an error is the first one's
	}
	b.queued = 0
	return nil
}
