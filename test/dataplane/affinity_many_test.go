package dataplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/core/routing"
)

// DP-10: a Service with affinity has as many backends in the kernel as one without, as
// many as routing gives a set, and its clients are served.
func TestAffinityMany(t *testing.T) {
	w := newWorld(t)
	s := service{name: "big", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, affinity: 24 * time.Hour, externalLocal: true, tcpOnly: true}
	for i := range routing.MaxBackends - 1 {
		s.endpoints = append(s.endpoints, onOther(pair(fmt.Sprintf("10.245.%d.%d", 10+i/250, i%250+1), fmt.Sprintf("fd00:10:245::%x", 0x1000+i)), 8080))
	}
	local := onNode(guestA, 8080)
	w.serve(w.a, local)
	s = s.with(append(s.endpoints, local)...)
	w.replace(s.view())
	w.verify()
	for _, family := range []string{"ip", "ip6"} {
		// Commas stand between elements, and the local set has one more.
		if n := strings.Count(w.nft("list map "+family+" portico session-slots"), ",") + 1; n != routing.MaxBackends+1 {
			t.Errorf("%s: %d slots", family, n)
		}
	}
	for _, v6 := range []bool{false, true} {
		if _, err := w.outside.Ask("tcp", nodeAddr.port(v6, s.nodePort)); err != nil {
			t.Errorf("by the node port: %v", err)
		}
	}
}
