package statuses

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	core "portico.dev/portico/internal/core/metallb"
)

// The labels by which MetalLB's users find the objects.
const (
	LabelServiceName      = "metallb.io/service-name"
	LabelServiceNamespace = "metallb.io/service-namespace"

	labelComponent = "metallb.io/component-type"
)

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// Layer2 says that a node answers for addresses of a Service, and on which links.
func Layer2(node string, service types.NamespacedName, links []string) *core.ServiceL2Status {
	s := &core.ServiceL2Status{
		ObjectMeta: ofService("l2-", node, service),
		Status:     core.ServiceL2StatusStatus{Node: node, ServiceName: service.Name, ServiceNamespace: service.Namespace},
	}
	for _, l := range links {
		s.Status.Interfaces = append(s.Status.Interfaces, core.InterfaceInfo{Name: l})
	}
	return s
}

// BGP says to which peers a node announces addresses of a Service.
func BGP(node string, service types.NamespacedName, peers []string) *core.ServiceBGPStatus {
	return &core.ServiceBGPStatus{
		ObjectMeta: ofService("bgp-", node, service),
		Status:     core.ServiceBGPStatusStatus{Node: node, ServiceName: service.Name, ServiceNamespace: service.Namespace, Peers: peers},
	}
}

func ofService(prefix, node string, service types.NamespacedName) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: prefix + short(node+"/"+service.String()), Namespace: core.Namespace,
		Labels: map[string]string{core.NodeLabel(core.ServiceL2Statuses): core.LabelValue(node), LabelServiceName: service.Name, LabelServiceNamespace: service.Namespace},
	}
}

// State says what of the configuration can't be on a node, since a time.
func State(node string, faults []announcing.Fault, since metav1.Time) *core.ConfigurationState {
	condition := metav1.Condition{
		Type: "configReconcilerValid", Status: metav1.ConditionTrue, Reason: "SyncStateSuccess", LastTransitionTime: since.Rfc3339Copy(),
	}
	state := &core.ConfigurationState{
		ObjectMeta: metav1.ObjectMeta{
			Name: "speaker-" + node, Namespace: core.Namespace,
			Labels: map[string]string{labelComponent: "speaker", core.NodeLabel(core.ConfigurationStates): core.LabelValue(node)},
		},
		Status: core.ConfigurationStateStatus{Result: "Valid"},
	}
	if len(faults) > 0 {
		var lines []string
		for _, f := range faults {
			lines = append(lines, f.Error())
		}
		state.Status.Result, state.Status.ErrorSummary = "Invalid", strings.Join(lines, "\n")
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "ConfigurationError", state.Status.ErrorSummary
	}
	state.Status.Conditions = []metav1.Condition{condition}
	return state
}
