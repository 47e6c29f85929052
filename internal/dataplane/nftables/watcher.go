package nftables

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/ruleset"
)

// watcher listens to the kernel's notices of rule changes (nfnetlink group
// NFNLGRP_NFTABLES) and tells when somebody else changed our table.
type watcher struct {
	file      *os.File
	raw       syscall.RawConn
	disturbed chan struct{} // capacity 1
	done      chan struct{}
}

// startWatcher listens in the network namespace of the calling thread. own is
// the netlink port whose changes are our own: the kernel leaves them out by a
// socket filter, or each full load would overflow the socket.
func startWatcher(own uint32) (*watcher, error) {
	fd, err := openNotices()
	if err != nil {
		return nil, err
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "nftables notices"), disturbed: make(chan struct{}, 1), done: make(chan struct{})}
	w.raw, err = w.file.SyscallConn()
	if err == nil {
		err = ruleset.IgnoreWriter(fd, own)
	}
	if err != nil {
		return nil, fmt.Errorf("filter notices of nftables: %w", errors.Join(err, w.file.Close()))
	}
	go w.run()
	return w, nil
}

// openNotices gives a socket that hears all changes of nftables.
func openNotices() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("open netlink socket for notices: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return -1, fmt.Errorf("listen to notices of nftables: %w", errors.Join(err, unix.Close(fd)))
	}
	return fd, nil
}

// listen joins or leaves the group.
func (w *watcher) listen(on bool) error {
	option := unix.NETLINK_DROP_MEMBERSHIP
	if on {
		option = unix.NETLINK_ADD_MEMBERSHIP
	}
	var err error
	if e := w.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, unix.NFNLGRP_NFTABLES)
	}); e != nil {
		return e
	}
	return err
}

// disturb says that somebody else may have changed our table.
func (w *watcher) disturb() {
	select {
	case w.disturbed <- struct{}{}:
	default:
	}
}

func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 1<<16)
	for {
		var failed error
		err := w.raw.Read(func(fd uintptr) (enough bool) {
			enough, failed = heard(int(fd), buf)
			return enough || failed != nil
		})
		if err != nil || failed != nil {
			return // closed
		}
		w.disturb()
	}
}

// manyNotices bounds what is read before a notice of ours is acted upon: others may write
// all the time.
const manyNotices = 1000

// heard takes the notices that wait and tells whether one is about our table. One change of
// somebody's is many notices (a flush at least one for each family), and each acted upon
// alone would be a repair of its own.
func heard(fd int, buf []byte) (ours bool, err error) {
	for read := 0; !ours || read < manyNotices; read++ {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return ours, nil
		case errors.Is(err, unix.ENOBUFS): // notices were lost: anything may have happened
			ours = true
		case err != nil:
			return ours, fmt.Errorf("receive notices of nftables: %w", err)
		default:
			ours = aboutUs(buf[:n]) || ours
		}
	}
	return ours, nil
}

// aboutUs reports whether a datagram has a notice about our table. The first
// attribute type of every kind of notice is the table's name, but for that of a
// generation's end, which says nothing more.
func aboutUs(b []byte) bool {
	ours := false
	err := eachMessage(b, func(h unix.NlMsghdr, body []byte) {
		kind := h.Type & 0xff
		if h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || kind == unix.NFT_MSG_NEWGEN || len(body) < 4 {
			return
		}
		family := body[0]
		ours = ours || (family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6) && cString(find(body[4:], unix.NFTA_TABLE_NAME)) == Table
	})
	return ours || err != nil
}

func (w *watcher) close() error {
	err := w.file.Close()
	<-w.done
	return err
}
