package metallb

import (
	"crypto/sha256"
	"encoding/hex"
)

// The resources in which a node says what it does with Services.
const (
	ServiceL2Statuses   = "servicel2statuses"
	ServiceBGPStatuses  = "servicebgpstatuses"
	ConfigurationStates = "configurationstates"
)

// NodeLabel is the label with the node (LabelValue) that a resource's objects are of; "":
// they are of none.
func NodeLabel(resource string) string {
	switch resource {
	case ConfigurationStates:
		return "metallb.io/node-name"
	case ServiceL2Statuses, ServiceBGPStatuses:
		return "metallb.io/node"
	}
	return ""
}

// LabelValue gives a node's name as a label's value: a name can be too long for one.
func LabelValue(node string) string {
	const most = 63
	if len(node) <= most {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return hex.EncodeToString(sum[:8])
}
