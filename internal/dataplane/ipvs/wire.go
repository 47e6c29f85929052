package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
)

// Numbers of linux/ip_vs.h and linux/genetlink.h.
const (
	genericVersion = 1
	familyName     = "IPVS"

	cmdNewService = 1
	cmdSetService = 2
	cmdDelService = 3
	cmdGetService = 4
	cmdNewDest    = 5
	cmdSetDest    = 6
	cmdDelDest    = 7
	cmdGetDest    = 8

	attrService = 1
	attrDest    = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcFwmark    = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9

	destAddr      = 1
	destPort      = 2
	destMethod    = 3
	destWeight    = 4
	destUpper     = 5
	destLower     = 6
	destActive    = 7
	destInactive  = 8
	destAddrFamil = 11

	flagPersistent = 1
	masquerading   = 0 // IP_VS_CONN_F_MASQ, the forwarding method

	ctrlGetFamily  = 3
	ctrlFamilyID   = 1
	ctrlFamilyName = 2
)

// key is what a virtual server is told by.
type key struct {
	netip.AddrPort
	protocol catalog.Protocol
}

func (k key) String() string { return k.protocol.String() + " " + k.AddrPort.String() }

// definition is a virtual server without its backends.
type definition struct {
	scheduler  string
	persistent uint32 // seconds; 0: clients aren't remembered
}

// load is a backend as the kernel has it.
type load struct {
	weight           uint32
	active, inactive uint32 // connections
}

// server is a virtual server as the kernel has it.
type server struct {
	definition
	backends map[netip.AddrPort]load
}

// errNoIPVS says that the kernel has no IPVS: it loads the module for who asks.
var errNoIPVS = errors.New("the kernel has no IPVS, and no module ip_vs that it could load")

// wire speaks to IPVS in the network namespace of the thread that opened it.
type wire struct {
	conn   *netlink.Conn
	raw    syscall.RawConn // the same
	family uint16

	mu     sync.Mutex // guards the following, and that answers come to whom they are for
	buffer []byte     // of what is sent
}

func dial() (*wire, error) {
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	w := &wire{conn: c}
	if w.raw, err = c.SyscallConn(); err == nil {
		err = c.SetReadBuffer(answerBuffer)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open generic netlink: %w", err), c.Close())
	}
	if w.family, err = familyID(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return w, nil
}

func (w *wire) close() error { return w.conn.Close() }

func familyID(c *netlink.Conn) (uint16, error) {
	answers, err := execute(c, unix.GENL_ID_CTRL, ctrlGetFamily, netlink.Request, attribute(nil, ctrlFamilyName, append([]byte(familyName), 0)...))
	if errors.Is(err, unix.ENOENT) {
		return 0, errNoIPVS
	}
	if err != nil {
		return 0, fmt.Errorf("ask for IPVS: %w", err)
	}
	for _, m := range answers {
		ad, err := attributes(m)
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == ctrlFamilyID {
				return ad.Uint16(), nil
			}
		}
	}
	return 0, errNoIPVS
}

func execute(c *netlink.Conn, family uint16, cmd byte, flags netlink.HeaderFlags, attributes []byte) ([]netlink.Message, error) {
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(family), Flags: flags},
		Data:   append([]byte{cmd, genericVersion, 0, 0}, attributes...), // struct genlmsghdr
	})
}

func attributes(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < 4 {
		return nil, fmt.Errorf("a message of IPVS has %d bytes", len(m.Data))
	}
	return netlink.NewAttributeDecoder(m.Data[4:])
}

func (w *wire) list(cmd byte, attributes []byte) ([]netlink.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return execute(w.conn, w.family, cmd, netlink.Request|netlink.Dump, attributes)
}

// servers reads all virtual servers but those told by a mark, which are never ours.
func (w *wire) servers() (map[key]*server, error) {
	answers, err := w.list(cmdGetService, nil)
	if err != nil {
		return nil, fmt.Errorf("list virtual servers: %w", err)
	}
	out := make(map[key]*server, len(answers))
	for _, m := range answers {
		k, d, ok, err := parseService(m)
		if err != nil {
			return nil, fmt.Errorf("list virtual servers: %w", err)
		}
		if ok {
			out[k] = &server{definition: d}
		}
	}
	return out, nil
}

// all reads the virtual servers that are wanted with their backends.
func (w *wire) all(wanted func(key) bool) (map[key]*server, error) {
	out, err := w.servers()
	if err != nil {
		return nil, err
	}
	for k, s := range out {
		if !wanted(k) {
			continue
		}
		if s.backends, err = w.backends(k); errors.Is(err, unix.ESRCH) {
			delete(out, k) // it went meanwhile
		} else if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// backends reads those of one virtual server.
func (w *wire) backends(k key) (map[netip.AddrPort]load, error) {
	answers, err := w.list(cmdGetDest, nested(nil, attrService, func(b []byte) []byte { return appendKey(b, k) }))
	if err != nil {
		return nil, fmt.Errorf("list the backends of virtual server %s: %w", k, err)
	}
	out := make(map[netip.AddrPort]load, len(answers))
	for _, m := range answers {
		at, l, err := parseBackend(m, k.Addr().Is6())
		if err != nil {
			return nil, fmt.Errorf("list the backends of virtual server %s: %w", k, err)
		}
		out[at] = l
	}
	return out, nil
}

// errShort says that an attribute has too few bytes.
var errShort = errors.New("an attribute of IPVS is too short")

// address reads union nf_inet_addr of a family.
func address(b []byte, v6 bool) (netip.Addr, error) {
	n := 4
	if v6 {
		n = 16
	}
	if len(b) < n {
		return netip.Addr{}, errShort
	}
	a, _ := netip.AddrFromSlice(b[:n])
	return a, nil
}

func port(b []byte) (uint16, error) {
	if len(b) < 2 {
		return 0, errShort
	}
	return binary.BigEndian.Uint16(b), nil
}

// parseService reads one virtual server; false for those told by a mark.
func parseService(m netlink.Message) (k key, d definition, ok bool, err error) {
	ad, err := attributes(m)
	if err != nil {
		return k, d, false, err
	}
	var raw, rawPort []byte
	var v6, marked bool
	var flags uint32
	for ad.Next() {
		if ad.Type() != attrService {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				switch ad.Type() {
				case svcFamily:
					v6 = ad.Uint16() == unix.AF_INET6
				case svcProtocol:
					k.protocol = catalog.Protocol(ad.Uint16())
				case svcAddr:
					raw = ad.Bytes()
				case svcPort:
					rawPort = ad.Bytes()
				case svcFwmark:
					marked = true
				case svcScheduler:
					d.scheduler = ad.String()
				case svcFlags:
					if b := ad.Bytes(); len(b) >= 4 {
						flags = binary.NativeEndian.Uint32(b)
					}
				case svcTimeout:
					d.persistent = ad.Uint32()
				}
			}
			return nil
		})
	}
	if err := ad.Err(); err != nil || marked {
		return k, d, false, err
	}
	if flags&flagPersistent == 0 {
		d.persistent = 0
	}
	a, err := address(raw, v6)
	if err != nil {
		return k, d, false, err
	}
	p, err := port(rawPort)
	k.AddrPort = netip.AddrPortFrom(a, p)
	return k, d, err == nil, err
}

func parseBackend(m netlink.Message, v6 bool) (at netip.AddrPort, l load, err error) {
	ad, err := attributes(m)
	if err != nil {
		return at, l, err
	}
	var raw, rawPort []byte
	for ad.Next() {
		if ad.Type() != attrDest {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				switch ad.Type() {
				case destAddr:
					raw = ad.Bytes()
				case destPort:
					rawPort = ad.Bytes()
				case destWeight:
					l.weight = ad.Uint32()
				case destActive:
					l.active = ad.Uint32()
				case destInactive:
					l.inactive = ad.Uint32()
				}
			}
			return nil
		})
	}
	if err := ad.Err(); err != nil {
		return at, l, err
	}
	a, err := address(raw, v6)
	if err != nil {
		return at, l, err
	}
	p, err := port(rawPort)
	return netip.AddrPortFrom(a, p), l, err
}
