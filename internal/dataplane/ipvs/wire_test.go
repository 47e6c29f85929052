package ipvs

import (
	"bytes"
	"testing"

	"github.com/mdlayher/netlink"

	"portico.dev/portico/internal/core/catalog"
)

// message gives what the kernel would send about a virtual server.
func message(t testing.TB, k key, d definition) netlink.Message {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.Nested(attrService, func(ae *netlink.AttributeEncoder) error {
		encodeKey(ae, k)
		encodeDefinition(ae, k, d)
		return nil
	})
	b, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return netlink.Message{Data: append([]byte{cmdNewService, genericVersion, 0, 0}, b...)}
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
func FuzzParse(f *testing.F) {
	f.Add(message(f, tcp("10.96.0.20:80"), definition{scheduler: "rr", persistent: 1}).Data)
	f.Add([]byte{1, 1, 0, 0, 8, 0, 1, 0x80, 4, 0, 3, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
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
