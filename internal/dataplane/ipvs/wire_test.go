package ipvs

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
)

// message gives what the kernel would send about a virtual server.
func message(t testing.TB, k key, d definition) netlink.Message {
	t.Helper()
	const header = 16
	return netlink.Message{Data: appendRequest(nil, &request{cmd: cmdNewService, key: k, definition: d}, 0, 0, 0)[header:]}
}

func TestService(t *testing.T) {
	for _, k := range []key{tcp("10.96.0.20:80"), {at("[fd00:10:96::20]:53"), catalog.UDP}, {at("10.96.0.20:65535"), catalog.SCTP}} {
		for _, d := range []definition{{scheduler: "rr"}, {scheduler: "wlc", persistent: 10800}} {
			gotKey, got, ok, err := parseService(message(t, k, d))
			if err != nil || !ok || gotKey != k || got != d {
				t.Errorf("%s %+v: read %s %+v %v %v", k, d, gotKey, got, ok, err)
			}
		}
	}
}

// Whatever comes is an error or a value.
// An answer that a batch doesn't expect ends it, and spoils no other. Any family refuses an
// unknown command; this one is always there.
func TestUnexpectedAnswer(t *testing.T) {
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := &wire{conn: c, family: unix.GENL_ID_CTRL}
	if w.raw, err = c.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	unknown := request{cmd: 200, key: tcp("10.96.0.20:80")}
	if err := w.send(appendRequest(nil, &unknown, w.family, netlink.Request, 5)); err != nil {
		t.Fatal(err)
	}
	if refused, err := w.write([]request{unknown}); err == nil {
		t.Errorf("another's answer is taken: %v", refused)
	}
	if refused, err := w.write([]request{unknown, unknown}); err != nil || len(refused) != 2 {
		t.Errorf("%v, %v; want both refused", refused, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(f, tcp("10.96.0.20:80"), definition{scheduler: "rr", persistent: 1}).Data)
	f.Add([]byte{1, 1, 0, 0, 8, 0, 1, 0x80, 4, 0, 3, 0})
	f.Add(binary.NativeEndian.AppendUint32([]byte{20, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0}, 0xfffffffe))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, problem, err := parseAnswer(b); err != nil && (i != 0 || problem != nil) {
			t.Errorf("%x: %d, %v", b, i, problem)
		}
		m := netlink.Message{Data: bytes.Clone(b)}
		if k, _, ok, err := parseService(m); ok && (err != nil || !k.IsValid()) {
			t.Errorf("%x: %s, %v", b, k, err)
		}
		for _, v6 := range []bool{false, true} {
			if at, _, err := parseBackend(m, v6); err == nil && (!at.IsValid() || at.Addr().Is6() != v6) {
				t.Errorf("%x: %s", b, at)
			}
		}
	})
}
