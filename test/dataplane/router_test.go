package dataplane

import (
	"fmt"
	"testing"
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
	for _, e := range []endpoint{near, remote} {
		web := oneOf(e)
		web.external, web.balancer = []dual{externalIP}, []dual{balancerIP}
		w.update(web.view())
		for _, v6 := range []bool{false, true} {
			for _, door := range web.doors(v6) {
				thereAndBack(t, fmt.Sprintf("%s by %s", e.at.of(v6), door), far, door)
			}
		}
	}
	complained(t, router)
}
