package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// batchMost is how many requests are sent at once, of some 180 bytes each: a socket's
	// usual buffer (212,992 bytes) has room for them.
	batchMost = 256
	// answerBuffer has room for an error about each of them: the kernel drops what doesn't fit.
	answerBuffer = 1 << 20
)

// request asks for one change of a virtual server or, with one of the commands for these, of
// a backend.
type request struct {
	cmd        byte
	key        key
	definition definition     // of a virtual server that comes or changes
	at         netip.AddrPort // the backend
	weight     uint32         // of a backend that comes or changes
}

// refusal is a request that the kernel didn't carry out.
type refusal struct {
	request
	err error
}

// write asks for at most batchMost changes, in their order. The kernel works through a batch
// before the call that sends it returns, and goes on after a request that it refuses. It
// answers errors, and what asks for an answer: the last alone does.
func (w *wire) write(all []request) (refused []refusal, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() {
		if err != nil {
			w.discard()
		}
	}()
	w.buffer = w.buffer[:0]
	for i := range all {
		flags := netlink.Request
		if i == len(all)-1 {
			flags |= netlink.Acknowledge
		}
		w.buffer = appendRequest(w.buffer, &all[i], w.family, flags, uint32(i))
	}
	if err := w.send(w.buffer); err != nil {
		return nil, fmt.Errorf("send to IPVS: %w", err)
	}
	answer := make([]byte, 4096) // an error has the request behind it
	for {
		n, err := w.receive(answer)
		if err != nil {
			return nil, fmt.Errorf("receive from IPVS: %w", err)
		}
		i, problem, err := parseAnswer(answer[:n])
		switch {
		case err != nil:
			return nil, err
		case i >= len(all):
			return nil, fmt.Errorf("IPVS answers request %d of %d", i, len(all))
		case problem != nil:
			refused = append(refused, refusal{all[i], problem})
		}
		if i == len(all)-1 {
			return refused, nil
		}
	}
}

func (w *wire) send(b []byte) (err error) {
	failed := w.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(failed, err)
}

func (w *wire) receive(b []byte) (n int, err error) {
	failed := w.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), b, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return n, errors.Join(failed, err)
}

// discard takes the answers that nobody waits for any more: the next request would take them
// for its own. All are there when what asked for them was sent.
func (w *wire) discard() {
	_ = w.raw.Control(func(fd uintptr) {
		var err error
		for err == nil || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
			_, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_DONTWAIT)
		}
	})
}

// parseAnswer reads struct nlmsghdr and struct nlmsgerr: which request of a batch it is
// about, and why that was refused.
func parseAnswer(b []byte) (i int, problem, err error) {
	const header = 16
	if len(b) < header+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return 0, nil, fmt.Errorf("IPVS answers a change with %x", b[:min(len(b), header)])
	}
	if code := int32(binary.NativeEndian.Uint32(b[header:])); code != 0 {
		problem = unix.Errno(-code)
	}
	return int(binary.NativeEndian.Uint32(b[8:])), problem, nil
}

// appendRequest adds a message: struct nlmsghdr, struct genlmsghdr, attributes.
func appendRequest(b []byte, r *request, family uint16, flags netlink.HeaderFlags, sequence uint32) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0) // its length
	b = binary.NativeEndian.AppendUint16(b, family)
	b = binary.NativeEndian.AppendUint16(b, uint16(flags))
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = append(b, 0, 0, 0, 0) // from: the kernel knows
	b = append(b, r.cmd, genericVersion, 0, 0)
	b = nested(b, attrService, func(b []byte) []byte {
		b = appendKey(b, r.key)
		if r.cmd == cmdNewService || r.cmd == cmdSetService {
			b = appendDefinition(b, r.key, r.definition)
		}
		return b
	})
	if r.cmd == cmdNewDest || r.cmd == cmdSetDest || r.cmd == cmdDelDest {
		b = nested(b, attrDest, func(b []byte) []byte { return appendBackend(b, r) })
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendKey(b []byte, k key) []byte {
	b = attribute16(b, svcFamily, familyOf(k.Addr()))
	b = attribute16(b, svcProtocol, uint16(k.protocol))
	b = attributeAddress(b, svcAddr, k.Addr())
	return attribute(b, svcPort, byte(k.Port()>>8), byte(k.Port()))
}

func appendDefinition(b []byte, k key, d definition) []byte {
	b = attribute(b, svcScheduler, append([]byte(d.scheduler), 0)...)
	flags := uint32(0)
	if d.persistent > 0 {
		flags = flagPersistent
	}
	// struct ip_vs_flags: the flags and which of them count.
	both := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, flags), ^uint32(0))
	b = attribute(b, svcFlags, both...)
	b = attribute32(b, svcTimeout, d.persistent)
	return attribute32(b, svcNetmask, wholeAddress(k.Addr()))
}

func appendBackend(b []byte, r *request) []byte {
	b = attribute16(b, destAddrFamil, familyOf(r.at.Addr()))
	b = attributeAddress(b, destAddr, r.at.Addr())
	b = attribute(b, destPort, byte(r.at.Port()>>8), byte(r.at.Port()))
	if r.cmd == cmdDelDest {
		return b
	}
	b = attribute32(b, destMethod, masquerading)
	b = attribute32(b, destWeight, r.weight)
	b = attribute32(b, destUpper, 0)
	return attribute32(b, destLower, 0)
}

// wholeAddress has persistence tell each client from all others: IPv4 has a mask here, in
// the network's order, IPv6 the length of a prefix.
func wholeAddress(a netip.Addr) uint32 {
	if a.Is6() {
		return 128
	}
	return ^uint32(0)
}

func familyOf(a netip.Addr) uint16 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// attribute adds struct nlattr and a value, filled up to four bytes.
func attribute(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func attribute16(b []byte, kind, value uint16) []byte {
	raw := [2]byte{}
	binary.NativeEndian.PutUint16(raw[:], value)
	return attribute(b, kind, raw[:]...)
}

func attribute32(b []byte, kind uint16, value uint32) []byte {
	raw := [4]byte{}
	binary.NativeEndian.PutUint32(raw[:], value)
	return attribute(b, kind, raw[:]...)
}

// attributeAddress adds union nf_inet_addr.
func attributeAddress(b []byte, kind uint16, a netip.Addr) []byte {
	if a.Is6() {
		all := a.As16()
		return attribute(b, kind, all[:]...)
	}
	all, four := [16]byte{}, a.As4()
	copy(all[:], four[:])
	return attribute(b, kind, all[:]...)
}

// nested adds an attribute that others make up.
func nested(b []byte, kind uint16, inner func([]byte) []byte) []byte {
	start := len(b)
	b = attribute(b, kind|unix.NLA_F_NESTED)
	b = inner(b)
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}
