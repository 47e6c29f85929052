package records

import (
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// TestEnvironment. ENV-01
func TestEnvironment(t *testing.T) {
	service := func(namespace, name, ip string, ports ...catalog.ServicePort) *catalog.Service {
		s := &catalog.Service{Name: types.NamespacedName{Namespace: namespace, Name: name}, Ports: ports}
		for _, a := range strings.Fields(ip) {
			s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(a))
		}
		return s
	}
	web := service("shop", "web-1", "10.96.0.20 fd00:10:96::20",
		catalog.ServicePort{Name: "http", Protocol: catalog.TCP, Port: 80}, catalog.ServicePort{Name: "dns-udp", Protocol: catalog.UDP, Port: 53})
	six := service("six", "db", "fd00:10:96::5", catalog.ServicePort{Protocol: catalog.SCTP, Port: 132})
	services := []*catalog.Service{
		service("default", "kubernetes", "10.96.0.1", catalog.ServicePort{Name: "https", Protocol: catalog.TCP, Port: 443}),
		web, six,
		service("shop", "headless", "", catalog.ServicePort{Protocol: catalog.TCP, Port: 1}),
	}
	const api = `KUBERNETES_SERVICE_HOST=10.96.0.1
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443
KUBERNETES_PORT=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP_PROTO=tcp
KUBERNETES_PORT_443_TCP_PORT=443
KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1
`
	const shop = `WEB_1_SERVICE_HOST=10.96.0.20
WEB_1_SERVICE_PORT=80
WEB_1_SERVICE_PORT_HTTP=80
WEB_1_SERVICE_PORT_DNS_UDP=53
WEB_1_PORT=tcp://10.96.0.20:80
WEB_1_PORT_80_TCP=tcp://10.96.0.20:80
WEB_1_PORT_80_TCP_PROTO=tcp
WEB_1_PORT_80_TCP_PORT=80
WEB_1_PORT_80_TCP_ADDR=10.96.0.20
WEB_1_PORT_53_UDP=udp://10.96.0.20:53
WEB_1_PORT_53_UDP_PROTO=udp
WEB_1_PORT_53_UDP_PORT=53
WEB_1_PORT_53_UDP_ADDR=10.96.0.20
`
	const sixth = `DB_SERVICE_HOST=fd00:10:96::5
DB_SERVICE_PORT=132
DB_PORT=sctp://[fd00:10:96::5]:132
DB_PORT_132_SCTP=sctp://[fd00:10:96::5]:132
DB_PORT_132_SCTP_PROTO=sctp
DB_PORT_132_SCTP_PORT=132
DB_PORT_132_SCTP_ADDR=fd00:10:96::5
`
	for _, tt := range []struct {
		namespace string
		all       bool
		services  []*catalog.Service
		want      string
	}{
		{"shop", true, services, api + shop},
		{"shop", false, services, api},
		{"default", true, services, api},
		{"default", false, services, api},
		{"empty", true, services, api},
		{"six", true, services, sixth + api},
		{"shop", true, []*catalog.Service{web}, shop},
		// A Service of the same name in the namespace hides the API's, in any order.
		{"six", true, append([]*catalog.Service{service("six", "kubernetes", "fd00:10:96::5", six.Ports...)}, services[0]), strings.ReplaceAll(sixth, "DB", "KUBERNETES")},
		{"six", true, append([]*catalog.Service{services[0]}, service("six", "kubernetes", "fd00:10:96::5", six.Ports...)), strings.ReplaceAll(sixth, "DB", "KUBERNETES")},
	} {
		if got := Shell(Environment(tt.namespace, tt.services, tt.all)); got != tt.want {
			t.Errorf("namespace %s, all %v:\n%swant\n%s", tt.namespace, tt.all, got, tt.want)
		}
	}
	if got := Shell([]Variable{{"7UP_SERVICE_HOST", "10.96.0.7"}, {"UP7_SERVICE_HOST", "10.96.0.8"}}); got != "UP7_SERVICE_HOST=10.96.0.8\n" {
		t.Errorf("a shell can't read %q", got)
	}
}
