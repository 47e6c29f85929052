package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
)

// flow is one entry of conntrack.
type flow struct {
	protocol     catalog.Protocol
	client, door netip.AddrPort
	backend      netip.AddrPort // who answers
	exists       bool
	id, zone     []byte // as the attributes have them; nil: none
}

// Attributes of conntrack (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet, ctDelete             = 1, 2 // IPCTNL_MSG_CT_*
	ctaTupleOrig, ctaTupleReply = 1, 2
	ctaID, ctaZone, ctaFilter   = 12, 18, 25
	ctaTupleIP, ctaTupleProto   = 1, 2
	ctaIPv4Src, ctaIPv4Dst      = 1, 2
	ctaIPv6Src, ctaIPv6Dst      = 3, 4
	ctaProtoNum                 = 1
	ctaProtoSrc, ctaProtoDst    = 2, 3
	ctaFilterOrig               = 1
	ctaFilterReply              = 2
	filterByProtocol            = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM of net/netfilter/nf_conntrack_netlink.c
)

func (fl *flow) family() uint8 {
	if fl.door.Addr().Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// tuple names the entry.
func (fl *flow) tuple() (a attrs) {
	src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if fl.door.Addr().Is6() {
		src, dst = ctaIPv6Src, ctaIPv6Dst
	}
	port := func(ap netip.AddrPort) []byte { return binary.BigEndian.AppendUint16(nil, ap.Port()) }
	a.nest(ctaTupleOrig, func(a *attrs) {
		a.nest(ctaTupleIP, func(a *attrs) {
			a.bytes(src, fl.client.Addr().AsSlice())
			a.bytes(dst, fl.door.Addr().AsSlice())
		})
		a.nest(ctaTupleProto, func(a *attrs) {
			a.bytes(ctaProtoNum, []byte{byte(fl.protocol)})
			a.bytes(ctaProtoSrc, port(fl.client))
			a.bytes(ctaProtoDst, port(fl.door))
		})
	})
	return a
}

// setBackend reads from an entry who answers.
func (fl *flow) setBackend(entry []byte) {
	tuple := find(entry, ctaTupleReply)
	ip := find(tuple, ctaTupleIP, ctaIPv4Src)
	if ip == nil {
		ip = find(tuple, ctaTupleIP, ctaIPv6Src)
	}
	fl.backend = addrPort(ip, find(tuple, ctaTupleProto, ctaProtoSrc))
	fl.exists = true
	fl.id, fl.zone = slices.Clone(find(entry, ctaID)), slices.Clone(find(entry, ctaZone))
}

func addrPort(ip, port []byte) netip.AddrPort {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || len(port) != 2 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}

// parseFlow reads an entry whole.
func parseFlow(entry []byte) (fl flow, ok bool) {
	tuple := find(entry, ctaTupleOrig)
	if p := find(tuple, ctaTupleProto, ctaProtoNum); len(p) != 1 || p[0] != byte(catalog.UDP) {
		return fl, false // kernels before 5.8 don't filter
	}
	ip, ports := find(tuple, ctaTupleIP), find(tuple, ctaTupleProto)
	src, dst := find(ip, ctaIPv4Src), find(ip, ctaIPv4Dst)
	if src == nil {
		src, dst = find(ip, ctaIPv6Src), find(ip, ctaIPv6Dst)
	}
	fl.protocol, fl.client, fl.door = catalog.UDP, addrPort(src, find(ports, ctaProtoSrc)), addrPort(dst, find(ports, ctaProtoDst))
	fl.setBackend(entry)
	return fl, fl.client.IsValid() && fl.door.IsValid()
}

// listUDP walks the whole table in the kernel, which shows the UDP entries alone.
func (c *conn) listUDP() (out []flow, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		m := message{subsystem: unix.NFNL_SUBSYS_CTNETLINK, kind: ctGet, family: family, what: "list conntrack"}
		m.body.nest(ctaTupleOrig, func(a *attrs) {
			a.nest(ctaTupleProto, func(a *attrs) { a.bytes(ctaProtoNum, []byte{byte(catalog.UDP)}) })
		})
		m.body.nest(ctaFilter, func(a *attrs) {
			a.bytes(ctaFilterOrig, binary.NativeEndian.AppendUint32(nil, filterByProtocol))
			a.bytes(ctaFilterReply, make([]byte, 4))
		})
		err := c.dump(m, func(entry []byte) error {
			if fl, ok := parseFlow(entry); ok {
				out = append(out, fl)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// askFlows fills in what conntrack has of flows that are named by client and door.
func (c *conn) askFlows(flows []flow) error {
	return c.each(flows, ctGet, 0, func(fl *flow, entry []byte, err error) error {
		fl.exists = false
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err == nil {
			fl.setBackend(entry)
		}
		return err
	})
}

// deleteFlows deletes entries by tuple and, where it is known, number, which names one
// entry and no later one of the same tuple.
func (c *conn) deleteFlows(flows []flow) error {
	return c.each(flows, ctDelete, unix.NLM_F_ACK, func(_ *flow, _ []byte, err error) error {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

// each sends one message for each flow, many in one system call, and hands over the
// answers: what is behind nfgenmsg, or an error.
func (c *conn) each(flows []flow, kind, flags uint16, answer func(fl *flow, entry []byte, err error) error) error {
	const atOnce = 64 // answers that the receive buffer holds in any case
	for part := range slices.Chunk(flows, atOnce) {
		var b []byte
		first := c.seq + 1
		for i := range part {
			fl := &part[i]
			body := fl.tuple()
			if kind == ctDelete && fl.id != nil {
				body.bytes(ctaID, fl.id)
			}
			if fl.zone != nil {
				body.bytes(ctaZone, fl.zone)
			}
			b = appendMessage(b, unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags|unix.NLM_F_REQUEST, c.next(), fl.family(), 0, body)
		}
		if err := c.send(b); err != nil {
			return err
		}
		var failed error
		for answers := 0; answers < len(part); {
			n, err := c.receive(true)
			if err != nil {
				return err
			}
			err = eachMessage(c.buf[:n], func(h unix.NlMsghdr, body []byte) {
				i := int(h.Seq - first)
				if i < 0 || i >= len(part) {
					return // a late answer to an earlier request
				}
				answers++
				var refused error
				switch {
				case h.Type == unix.NLMSG_ERROR:
					refused, body = messageError(h, body), nil
				case len(body) < 4:
					refused = unix.EBADMSG
				default:
					body = body[4:]
				}
				if err := answer(&part[i], body, refused); err != nil && failed == nil {
					failed = fmt.Errorf("%s flow from %s to %s: %w", part[i].protocol, part[i].client, part[i].door, err)
				}
			})
			if err != nil {
				return err
			}
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}
