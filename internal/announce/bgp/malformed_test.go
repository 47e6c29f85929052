package bgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/test/rig"
)

// message is one of BGP's (RFC 4271, 4.1); a length of 0 is the right one.
func message(kind byte, length uint16, body ...byte) []byte {
	if length == 0 {
		length = uint16(19 + len(body))
	}
	out := binary.BigEndian.AppendUint16(bytes.Repeat([]byte{0xff}, 16), length)
	return append(append(out, kind), body...)
}

// Types of messages.
const (
	open      = 1
	update    = 2
	keepalive = 4
)

// good begins a session as AS 64777 does.
var good = append(message(open, 0, 4, 0xfd, 0x09, 0, 90, 192, 0, 2, 253, 0), message(keepalive, 0)...)

// madness is what a router says that is none, or that somebody wrote for it.
var madness = [][]byte{
	[]byte("GET / HTTP/1.1\r\nHost: router\r\n\r\n"),
	bytes.Repeat([]byte{0}, 4096),
	message(open, 18),                                                   // shorter than its own head
	message(open, 0xffff),                                               // longer than a message may be
	message(open, 0, 3, 0xfd, 0x09, 0, 90, 1, 2, 3, 4, 0),               // of version 3
	message(open, 0, 4, 0xfd, 0x09, 0, 1, 1, 2, 3, 4, 0),                // a hold time that isn't allowed
	message(open, 0, 4, 0xfd, 0x09, 0, 90, 1, 2, 3, 4, 255, 2, 6, 1, 4), // parameters beyond its end
	message(77, 0, 1, 2, 3),
	append(bytes.Clone(good), message(update, 0, 0xff, 0xff)...),                      // withdraws beyond its end
	append(bytes.Clone(good), message(update, 0, 0, 0, 0, 4, 0x40, 1, 0xff, 9)...),    // an attribute beyond its end
	append(bytes.Clone(good), message(update, 0, 0, 0, 0, 0, 33, 198, 51, 100, 1)...), // a prefix of 33 bits
}

// LB-04: a router that sends no BGP, or what was forged, ends nobody's session but its own,
// and the node goes on.
func TestMalformedMessages(t *testing.T) {
	rig.Need(t)
	t.Parallel()
	lan := rig.NewLAN(t)
	r := newRouter(t, lan)
	r.bird(birdConfig)
	mad := rig.NewHost(t, "mad")
	lan.Connect(t, mad)
	connect := &metav1.Duration{Duration: 2 * time.Second}
	w := base(metallb.BGPPeerSpec{
		MyASN: 64512, LocalASN: 64999, DynamicASN: metallb.ExternalASN, Address: "192.0.2.254", SourceAddress: "192.0.2.2", ConnectTime: connect,
	}, at("web", "198.51.100.1"))
	heard := make([]atomic.Bool, len(madness))
	for i, text := range madness {
		at := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
		if err := mad.AddAddr(rig.Uplink, netip.PrefixFrom(at, 24)); err != nil {
			t.Fatal(err)
		}
		speakMadly(t, mad, netip.AddrPortFrom(at, 179), text, &heard[i])
		peer := &metallb.BGPPeer{Spec: metallb.BGPPeerSpec{MyASN: 64512, LocalASN: 64999, ASN: 64777, Address: at.String(), ConnectTime: connect}}
		peer.Name = fmt.Sprint("mad-", i)
		w.Config.BGPPeers = append(w.Config.BGPPeers, peer)
	}
	n := newNode(t, lan, "b", 2, w)
	eventually(t, "the route is there", hasHops(r, "198.51.100.1/32", "192.0.2.2"))
	eventually(t, "all was heard", func() error {
		for _, p := range n.state().Peers {
			if p.Peer == "router" && p.Status != Established {
				t.Fatalf("the session with the router is %s: %s", p.Status, p.Why)
			}
		}
		for i := range heard {
			if !heard[i].Load() {
				return fmt.Errorf("not %q", madness[i])
			}
		}
		return nil
	})
	if err := hasHops(r, "198.51.100.1/32", "192.0.2.2")(); err != nil {
		t.Error(err)
	}
}

// speakMadly says a text to who begins a session, and notes that it was taken note of: the
// session's end, or silence.
func speakMadly(t *testing.T, h *rig.Host, at netip.AddrPort, text []byte, heard *atomic.Bool) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close() // nothing is lost
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))    // a socket of the test's
			if _, err := c.Read(make([]byte, 4096)); err == nil { // the node's OPEN
				_, _ = c.Write(text) // it may have hung up
				for err == nil {
					_, err = c.Read(make([]byte, 4096))
				}
				heard.Store(true)
			}
			_ = c.Close() // nothing is lost
		}
	}()
}
