package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// While anybody in a network namespace listens to nftables' notices the kernel makes one
// of each element that a transaction changes, some 20 microseconds each, and wakes every
// listener. So who writes much has others not listen meanwhile, and who listens leaves
// out what is none of its business in the kernel already.

// IgnoreWriter has a netlink socket drop notices of the transactions of one netlink port.
func IgnoreWriter(fd int, port uint32) error {
	// BPF loads in network order what nlmsghdr has in host order.
	const portOffset, all = 12, 0xffffffff
	own := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: own},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: unsafe.SliceData(prog)})
}

// Ignore has the keeper not look at what a netlink port writes: it must never touch the
// keeper's table.
func (k *Keeper) Ignore(port uint32) error {
	raw, err := k.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("filter news of nftables: %w", err)
	}
	if e := raw.Control(func(fd uintptr) { err = IgnoreWriter(int(fd), port) }); e != nil || err != nil {
		return fmt.Errorf("filter news of nftables: %w", errors.Join(e, err))
	}
	return nil
}

// Unheard runs f while the keeper doesn't listen, and looks afterwards what it missed.
// Its error is f's; a keeper that can't listen again says so in the log.
func (k *Keeper) Unheard(f func() error) error {
	if err := k.conn.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return f() // it is being closed
	}
	defer func() {
		if err := k.conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
			k.log.Error("No more news of nftables; changes by others are not mended", "error", err)
		}
		k.check()
	}()
	return f()
}
