package dataplane

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/test/rig"
)

// DP-03: by choice, iptables serves node ports at 127.0.0.1: backends here and on other nodes
// answer, nobody outside reaches what listens on loopback alone, and what was set for it is
// undone with the rules.
func TestLocalNodePorts(t *testing.T) {
	w := newScene(t)
	w.localNodePorts = true
	w.start()
	t.Cleanup(func() { w.stop() })
	here, there := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, here)
	w.serve(w.c, there)
	near := service{name: "near", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}.with(here)
	far := service{name: "far", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 80, nodePort: 30081}.with(there)
	w.replace(near.view(), far.view())
	w.verify()
	for _, network := range []string{"tcp", "udp"} {
		for port, want := range map[uint16]endpoint{30080: here, 30081: there} {
			got, err := w.node.Ask(network, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			if err != nil || got.Server != want.addr(false) {
				t.Errorf("%s 127.0.0.1:%d: %+v, %v; want %v", network, port, got, err, want.at)
			}
		}
	}

	secret := netip.MustParseAddrPort("127.0.0.1:999")
	c, err := w.node.Listen(secret)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mouth := w.outside.Mouth(t, rig.Uplink, w.node.MAC(t, rig.Uplink))
	hears := func() bool {
		for _, from := range []netip.Addr{clientAddr.v4, secret.Addr()} {
			if err := mouth.Send(rig.IP{From: from, To: secret.Addr(), Proto: unix.IPPROTO_UDP, Payload: rig.UDPDatagram(netip.AddrPortFrom(from, 999), secret, []byte("in"))}.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 10))
		return err == nil
	}
	if hears() {
		t.Error("a host outside reaches a loopback address")
	}
	if on := w.localnet(); on != "1" {
		t.Errorf("route_localnet is %s", on)
	}
	w.stop()
	w.localNodePorts = false
	w.start()
	w.replace(near.view(), far.view())
	w.verify()
	if on := w.localnet(); on != "0" {
		t.Errorf("after it was switched off route_localnet is %s", on)
	}
	if a, err := w.node.Ask("tcp", netip.MustParseAddrPort("127.0.0.1:30080")); err == nil {
		t.Errorf("after it was switched off %+v answers", a)
	}
}

// localnet is the node's setting.
func (w *world) localnet() (on string) {
	w.t.Helper()
	if err := w.node.Do(func() error {
		raw, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/route_localnet")
		on = strings.TrimSpace(string(raw))
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return on
}
