// Package admissionchain decides, after a request was authorized and decoded, whether
// its object may be stored, and in which form.
//
// In: the request's attributes, from k8s.io/apiserver; the namespaces, webhook
// configurations, policies and quotas that are stored, by watches of this process on
// itself. Out: the object, perhaps changed, or a refusal; a charge to the status of a
// ResourceQuota; calls of webhooks over HTTPS, to a URL or straight to an endpoint of a
// Service. The rules of configurations and policies themselves are here too.
//
// It never stores the object, and doesn't count what quotas are used by: that is
// controllers/quota's.
//
//	NamespaceLifecycle -> NodeRestriction -> MutatingAdmissionPolicy -> MutatingAdmissionWebhook
//	  -> (validation of the object) -> ValidatingAdmissionPolicy -> ValidatingAdmissionWebhook -> ResourceQuota
package admissionchain
