package apiserver

import (
	"io"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit/policy"
	genericapiserver "k8s.io/apiserver/pkg/server"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// useAudit notes writes to w, one JSON event of audit.k8s.io/v1 a line.
func useAudit(config *genericapiserver.Config, w io.Writer) {
	config.AuditBackend = auditlog.NewBackend(w, auditlog.FormatJson, auditv1.SchemeGroupVersion)
	config.AuditPolicyRuleEvaluator = policy.NewPolicyRuleEvaluator(auditPolicy())
}

// auditPolicy notes who wrote what, when and with which result, never the objects:
// Secrets are among them. Reads and what the system says to itself all the time, such
// as the renewal of leases and events, would bury the rest.
func auditPolicy() *auditinternal.Policy {
	return &auditinternal.Policy{
		OmitStages: []auditinternal.Stage{auditinternal.StageRequestReceived},
		Rules: []auditinternal.PolicyRule{
			{Level: auditinternal.LevelNone, Resources: []auditinternal.GroupResources{
				{Group: "", Resources: []string{"events"}},
				{Group: "events.k8s.io", Resources: []string{"events"}},
				{Group: "coordination.k8s.io", Resources: []string{"leases"}},
				{Group: "authorization.k8s.io", Resources: []string{"*"}}, // questions, written as creations
				{Group: "authentication.k8s.io", Resources: []string{"*"}},
			}},
			{Level: auditinternal.LevelMetadata, Verbs: []string{"create", "update", "patch", "delete", "deletecollection"}},
			// Streams into guests and pods are reads by their verb only.
			{Level: auditinternal.LevelMetadata, Resources: []auditinternal.GroupResources{
				{Group: "subresources.kubevirt.io", Resources: []string{"*"}},
				{Group: "", Resources: []string{"pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy"}},
			}},
			{Level: auditinternal.LevelNone},
		},
	}
}
