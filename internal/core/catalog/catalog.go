package catalog

import (
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Protocol is the IP protocol number of a Service port (IANA protocol numbers).
type Protocol uint8

const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String gives the name the API uses: TCP, UDP or SCTP.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// Service is what a node knows of a core/v1 Service.
type Service struct {
	Name    types.NamespacedName
	UID     types.UID
	Created time.Time // of two Services that claim one frontend the older wins
	Type    corev1.ServiceType

	// ClusterIPs has one address per family, the primary first; it is empty
	// for headless and ExternalName Services.
	ClusterIPs   []netip.Addr
	Headless     bool
	ExternalName string // without the final dot; only for type ExternalName

	Ports       []ServicePort
	ExternalIPs []netip.Addr
	Ingress     []Ingress // status.loadBalancer.ingress, addresses only
	HasSelector bool

	Affinity time.Duration // 0: no session affinity

	ExternalLocal bool // externalTrafficPolicy: Local
	InternalLocal bool // internalTrafficPolicy: Local

	SourceRanges        []netip.Prefix // loadBalancerSourceRanges; empty: everybody
	HealthCheckNodePort uint16         // 0: none

	// Labels are kept for type LoadBalancer only: advertisements select by them.
	Labels map[string]string

	PublishNotReady bool
	Distribution    string // spec.trafficDistribution, "" when unset
	Foreign         bool   // service-proxy-name is set: another proxy serves it
	TopologyKeys    []string
	// Scheduler is that of IPVS, "" for the data plane's own choice. Other techniques
	// have no use for it.
	Scheduler string

	Faults []Fault // what was left out
}

// ServicePort is one entry of spec.ports.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// Ingress is one load-balancer address of status.loadBalancer.ingress.
type Ingress struct {
	IP    netip.Addr
	Proxy bool // ipMode Proxy: not to be short-circuited inside
}

// Slice is what a node knows of an EndpointSlice.
type Slice struct {
	Name      types.NamespacedName
	Service   types.NamespacedName // from the label kubernetes.io/service-name
	IPv6      bool
	Ports     []SlicePort
	Endpoints []Endpoint // by address
	Faults    []Fault    // what was left out
	// Trigger is the time of the change that caused this version (annotation
	// endpoints.kubernetes.io/last-change-trigger-time); zero when unknown.
	Trigger time.Time
}

// SlicePort names a port on which each endpoint of the slice answers.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is one address of a Slice with its state.
type Endpoint struct {
	Addr        netip.Addr
	Node        string // "" when unknown
	Zone        string
	Hostname    string
	Ready       bool
	Serving     bool
	Terminating bool
	NodeHints   []string
	ZoneHints   []string
}

// Node is what routing must know of the node it computes for.
type Node struct {
	Name   string
	Labels map[string]string
	Zone   string // label topology.kubernetes.io/zone
}
