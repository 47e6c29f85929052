package metallb

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	core "portico.dev/portico/internal/core/metallb"
)

// The resources, as they are stored and served.
var (
	Pools             = v1beta1("ipaddresspools")
	L2Advertisements  = v1beta1("l2advertisements")
	BGPAdvertisements = v1beta1("bgpadvertisements")
	BGPPeers          = schema.GroupVersionResource{Group: core.Group, Version: "v1beta2", Resource: "bgppeers"}
	BFDProfiles       = v1beta1("bfdprofiles")
	Communities       = v1beta1("communities")

	ServiceL2Statuses   = v1beta1(core.ServiceL2Statuses)
	ServiceBGPStatuses  = v1beta1(core.ServiceBGPStatuses)
	ConfigurationStates = v1beta1(core.ConfigurationStates)
)

func v1beta1(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: core.Group, Version: "v1beta1", Resource: resource}
}
