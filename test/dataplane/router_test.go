package dataplane

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"time"

	"portico.dev/portico/test/rig"
)

// DP-15: a router outside with a smaller MTU is found: its ICMP errors about a
// Service's answers get to the backend, here and on the other node, and the client
// gets all.
func TestRouterMTU(t *testing.T) {
	w := newWorld(t)
	router, far := w.scene.Beyond()
	near, remote := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, near)
	w.serve(w.c, remote)
	w.replace()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	for _, e := range []endpoint{near, remote} {
		web := oneOf(e)
		web.external, web.balancer = []dual{externalIP}, []dual{balancerIP}
		w.update(web.view())
		for _, v6 := range []bool{false, true} {
			for _, door := range web.doors(v6) {
				c, err := far.Dial("tcp", netip.AddrPort{}, door, rig.Patience)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := rig.Exchange(c, rig.Patience); err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // Write and Read tell
				done := make(chan error, 1)
				go func() {
					_, err := c.Write(sent)
					done <- err
				}()
				got := make([]byte, len(sent))
				if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%s by %s: %d of %d bytes came back: %v", e.at.of(v6), door, n, len(sent), err)
				}
				if err := <-done; err != nil {
					t.Errorf("%s: send: %v", door, err)
				}
			}
		}
	}
	complained(t, router)
}
