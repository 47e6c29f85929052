package metallb

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Group is the API group of all kinds here. BGPPeer is served as v1beta2, the others as
// v1beta1.
const Group = "metallb.io"

// Namespace is where these objects are looked for, unless a flag names another.
const Namespace = "metallb-system"

// Config is all that people wrote, at one moment, each kind in the order of names.
type Config struct {
	Pools             []*IPAddressPool
	L2Advertisements  []*L2Advertisement
	BGPAdvertisements []*BGPAdvertisement
	BGPPeers          []*BGPPeer
	BFDProfiles       []*BFDProfile
	Communities       []*Community
}

// IPAddressPool is a set of addresses for load balancers (v1beta1).
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPAddressPoolSpec   `json:"spec"`
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// IPAddressPoolSpec says which addresses, and for whom.
type IPAddressPoolSpec struct {
	// Addresses are CIDRs ("192.0.2.0/28") and ranges ("192.0.2.1-192.0.2.9") of either family.
	Addresses []string `json:"addresses"`
	// AutoAssign false: only Services that ask for the pool or for an address of it. nil is true.
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// AvoidBuggyIPs leaves out the IPv4 addresses that end in .0 and .255.
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`
	// ServiceAllocation limits the pool to some Services; nil: all.
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
}

// ServiceAllocation pins a pool to Services. A Service of one of the namespaces, or of one
// that a namespace selector matches, and that a service selector matches, may have it; an
// empty list matches all.
type ServiceAllocation struct {
	// Priority orders the pools that fit; lower comes first, and 0 after all others.
	Priority           int                    `json:"priority,omitempty"`
	Namespaces         []string               `json:"namespaces,omitempty"`
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`
	ServiceSelectors   []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// IPAddressPoolStatus counts addresses. A number too large for an int64 is its maximum.
type IPAddressPoolStatus struct {
	AssignedIPv4  int64 `json:"assignedIPv4"`
	AssignedIPv6  int64 `json:"assignedIPv6"`
	AvailableIPv4 int64 `json:"availableIPv4"`
	AvailableIPv6 int64 `json:"availableIPv6"`
}

// L2Advertisement has addresses of pools announced by ARP and NDP (v1beta1).
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec L2AdvertisementSpec `json:"spec,omitempty"`
}

// L2AdvertisementSpec says which addresses, by which nodes, on which links. Pools are those
// named and those selected; with neither, all.
type L2AdvertisementSpec struct {
	IPAddressPools         []string               `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	ServiceSelectors       []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
	NodeSelectors          []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	// Interfaces are names of links; empty: every link that can.
	Interfaces []string `json:"interfaces,omitempty"`
}

// BGPAdvertisement has addresses of pools announced to BGP peers (v1beta1).
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
}

// BGPAdvertisementSpec says which addresses, by which nodes, to whom, with which attributes.
type BGPAdvertisementSpec struct {
	// AggregationLength is the length of the announced IPv4 prefixes; nil is 32.
	AggregationLength *int32 `json:"aggregationLength,omitempty"`
	// AggregationLengthV6 likewise; nil is 128.
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`
	// LocalPref is told to peers of the own AS only.
	LocalPref uint32 `json:"localPref,omitempty"`
	// Communities are "65535:65282", "large:1:2:3", or aliases of a Community object.
	Communities            []string               `json:"communities,omitempty"`
	IPAddressPools         []string               `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	ServiceSelectors       []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
	NodeSelectors          []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	// Peers are names of BGPPeers; empty: all.
	Peers []string `json:"peers,omitempty"`
}

// BGPPeer is a router to speak BGP with (v1beta2).
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPPeerSpec `json:"spec,omitempty"`
}

// DynamicASN lets a peer's AS number be any of a kind.
type DynamicASN string

// The kinds: the own AS, or any other.
const (
	InternalASN DynamicASN = "internal"
	ExternalASN DynamicASN = "external"
)

// BGPPeerSpec is one session from each node that the selectors match (empty: all).
type BGPPeerSpec struct {
	MyASN uint32 `json:"myASN"`
	// LocalASN is told to this peer in place of MyASN (RFC 7705); 0: none.
	LocalASN uint32 `json:"localASN,omitempty"`
	// ASN is the peer's; else DynamicASN is set.
	ASN        uint32     `json:"peerASN,omitempty"`
	DynamicASN DynamicASN `json:"dynamicASN,omitempty"`
	// Address is the peer's; else Interface is set, for an unnumbered session.
	Address       string `json:"peerAddress,omitempty"`
	Interface     string `json:"interface,omitempty"`
	SourceAddress string `json:"sourceAddress,omitempty"`
	// Port of the peer; 0 is 179.
	Port uint16 `json:"peerPort,omitempty"`
	// HoldTime is at least 3 s, or 0 for none; nil is 90 s (RFC 4271).
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`
	// KeepaliveTime is below HoldTime; nil is a third of it.
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`
	// ConnectTime is between two attempts to connect, 1 s to 65535 s.
	ConnectTime *metav1.Duration `json:"connectTime,omitempty"`
	// RouterID is an IPv4 address; empty: the node's, or one made of its name.
	RouterID      string                 `json:"routerID,omitempty"`
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	// Password of TCP MD5 (RFC 2385), in clear; else PasswordSecret may name a Secret of
	// type kubernetes.io/basic-auth.
	Password       string          `json:"password,omitempty"`
	PasswordSecret SecretReference `json:"passwordSecret,omitempty"`
	// BFDProfile names a BFDProfile; empty: no BFD.
	BFDProfile             string `json:"bfdProfile,omitempty"`
	EnableGracefulRestart  bool   `json:"enableGracefulRestart,omitempty"`
	EBGPMultiHop           bool   `json:"ebgpMultiHop,omitempty"`
	VRF                    string `json:"vrf,omitempty"`
	DisableMP              bool   `json:"disableMP,omitempty"`
	DualStackAddressFamily bool   `json:"dualStackAddressFamily,omitempty"`
}

// SecretReference names a Secret; an empty namespace is the peer's.
type SecretReference struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// BFDProfile are the timers of BFD sessions (v1beta1, RFC 5880).
type BFDProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BFDProfileSpec `json:"spec,omitempty"`
}

// BFDProfileSpec has times in milliseconds; nil is 300 for receiving and transmitting, 3
// for the multiplier, 50 for the echo.
type BFDProfileSpec struct {
	ReceiveInterval  *uint32 `json:"receiveInterval,omitempty"`
	TransmitInterval *uint32 `json:"transmitInterval,omitempty"`
	DetectMultiplier *uint32 `json:"detectMultiplier,omitempty"`
	EchoInterval     *uint32 `json:"echoInterval,omitempty"`
	EchoMode         *bool   `json:"echoMode,omitempty"`
	PassiveMode      *bool   `json:"passiveMode,omitempty"`
	MinimumTTL       *uint32 `json:"minimumTtl,omitempty"`
}

// Community gives names to BGP communities (v1beta1).
type Community struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec CommunitySpec `json:"spec,omitempty"`
}

// CommunitySpec lists the names.
type CommunitySpec struct {
	Communities []CommunityAlias `json:"communities,omitempty"`
}

// CommunityAlias is one name and its value, "65535:65282" or "large:1:2:3".
type CommunityAlias struct {
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
}

// ServiceL2Status says which node answers for a Service's addresses, and where (v1beta1).
type ServiceL2Status struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status ServiceL2StatusStatus `json:"status,omitempty"`
}

// ServiceL2StatusStatus never changes but for the interfaces.
type ServiceL2StatusStatus struct {
	Node             string          `json:"node,omitempty"`
	ServiceName      string          `json:"serviceName,omitempty"`
	ServiceNamespace string          `json:"serviceNamespace,omitempty"`
	Interfaces       []InterfaceInfo `json:"interfaces,omitempty"`
}

// InterfaceInfo names a link.
type InterfaceInfo struct {
	Name string `json:"name,omitempty"`
}

// ServiceBGPStatus says to which peers a node is to announce a Service (v1beta1).
type ServiceBGPStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status ServiceBGPStatusStatus `json:"status,omitempty"`
}

// ServiceBGPStatusStatus never changes but for the peers.
type ServiceBGPStatusStatus struct {
	Node             string   `json:"node,omitempty"`
	ServiceName      string   `json:"serviceName,omitempty"`
	ServiceNamespace string   `json:"serviceNamespace,omitempty"`
	Peers            []string `json:"peers,omitempty"`
}

// ConfigurationState says whether the other objects make sense, as one component sees it
// (v1beta1). Labels metallb.io/component-type and metallb.io/node-name say which.
type ConfigurationState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status ConfigurationStateStatus `json:"status,omitempty"`
}

// ConfigurationStateStatus has the result Valid, Invalid or Unknown.
type ConfigurationStateStatus struct {
	Result       string             `json:"result,omitempty"`
	ErrorSummary string             `json:"errorSummary,omitempty"`
	Conditions   []metav1.Condition `json:"conditions,omitempty"`
}
