package admissionchain

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
)

// webhookSeconds is how long a webhook may take when it doesn't say; it may say 1 to 30
// (the API's documentation of timeoutSeconds).
const (
	webhookSeconds    = 10
	maxWebhookSeconds = 30
)

// reviewVersions are the forms of AdmissionReview that the library can send.
var reviewVersions = []string{"v1", "v1beta1"}

// hook is what both kinds of webhooks have in common, for defaults and validation.
type hook struct {
	name                string
	client              *admissionv1.WebhookClientConfig
	rules               []admissionv1.RuleWithOperations
	failurePolicy       **admissionv1.FailurePolicyType
	matchPolicy         **admissionv1.MatchPolicyType
	namespaces, objects **metav1.LabelSelector
	sideEffects         **admissionv1.SideEffectClass
	timeout             **int32
	versions            []string
	conditions          []admissionv1.MatchCondition
	mutating            bool
	reinvocation        *admissionv1.ReinvocationPolicyType
}

func validatingHook(w *admissionv1.ValidatingWebhook) hook {
	return hook{
		name: w.Name, client: &w.ClientConfig, rules: w.Rules, failurePolicy: &w.FailurePolicy, matchPolicy: &w.MatchPolicy,
		namespaces: &w.NamespaceSelector, objects: &w.ObjectSelector, sideEffects: &w.SideEffects, timeout: &w.TimeoutSeconds,
		versions: w.AdmissionReviewVersions, conditions: w.MatchConditions,
	}
}

func mutatingHook(w *admissionv1.MutatingWebhook) hook {
	return hook{
		name: w.Name, client: &w.ClientConfig, rules: w.Rules, failurePolicy: &w.FailurePolicy, matchPolicy: &w.MatchPolicy,
		namespaces: &w.NamespaceSelector, objects: &w.ObjectSelector, sideEffects: &w.SideEffects, timeout: &w.TimeoutSeconds,
		versions: w.AdmissionReviewVersions, conditions: w.MatchConditions, mutating: true, reinvocation: w.ReinvocationPolicy,
	}
}

// SetValidatingDefaults fills what a ValidatingWebhookConfiguration leaves open.
func SetValidatingDefaults(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		validatingHook(&c.Webhooks[i]).setDefaults()
	}
}

// SetMutatingDefaults fills what a MutatingWebhookConfiguration leaves open.
func SetMutatingDefaults(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		orElse(&c.Webhooks[i].ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		mutatingHook(&c.Webhooks[i]).setDefaults()
	}
}

func orElse[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func (h hook) setDefaults() {
	orElse(h.failurePolicy, admissionv1.Fail)
	orElse(h.matchPolicy, admissionv1.Equivalent)
	orElse(h.namespaces, metav1.LabelSelector{})
	orElse(h.objects, metav1.LabelSelector{})
	orElse(h.timeout, int32(webhookSeconds))
	if h.client.Service != nil {
		orElse(&h.client.Service.Port, int32(443))
	}
	for i := range h.rules {
		orElse(&h.rules[i].Scope, admissionv1.AllScopes)
	}
}

// ValidateValidating checks a ValidatingWebhookConfiguration.
func ValidateValidating(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	hooks := make([]hook, len(c.Webhooks))
	for i := range c.Webhooks {
		hooks[i] = validatingHook(&c.Webhooks[i])
	}
	return validateHooks(&c.ObjectMeta, hooks)
}

// ValidateMutating checks a MutatingWebhookConfiguration.
func ValidateMutating(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	hooks := make([]hook, len(c.Webhooks))
	for i := range c.Webhooks {
		hooks[i] = mutatingHook(&c.Webhooks[i])
	}
	return validateHooks(&c.ObjectMeta, hooks)
}

func validateHooks(m *metav1.ObjectMeta, hooks []hook) field.ErrorList {
	errs := validation.ValidateObjectMeta(m, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	seen := map[string]bool{}
	for i, h := range hooks {
		path := field.NewPath("webhooks").Index(i)
		if seen[h.name] && h.name != "" {
			errs = append(errs, field.Duplicate(path.Child("name"), h.name))
		}
		seen[h.name] = true
		errs = append(errs, h.validate(path)...)
	}
	return errs
}

func (h hook) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, utilvalidation.IsFullyQualifiedName(path.Child("name"), h.name)...)
	errs = append(errs, validateRules(h.rules, path.Child("rules"))...)
	errs = append(errs, h.validateClient(path.Child("clientConfig"))...)
	if p := *h.failurePolicy; p != nil && *p != admissionv1.Fail && *p != admissionv1.Ignore {
		errs = append(errs, field.NotSupported(path.Child("failurePolicy"), *p, []string{"Fail", "Ignore"}))
	}
	if p := *h.matchPolicy; p != nil && *p != admissionv1.Exact && *p != admissionv1.Equivalent {
		errs = append(errs, field.NotSupported(path.Child("matchPolicy"), *p, []string{"Equivalent", "Exact"}))
	}
	// A v1 webhook must be safe for dry runs, or say nothing of them happens.
	switch s := *h.sideEffects; {
	case s == nil:
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	case *s != admissionv1.SideEffectClassNone && *s != admissionv1.SideEffectClassNoneOnDryRun:
		errs = append(errs, field.NotSupported(path.Child("sideEffects"), *s, []string{"None", "NoneOnDryRun"}))
	}
	if t := *h.timeout; t != nil && (*t < 1 || *t > maxWebhookSeconds) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateSelector(*h.namespaces, path.Child("namespaceSelector"))...)
	errs = append(errs, validateSelector(*h.objects, path.Child("objectSelector"))...)
	errs = append(errs, validateReviewVersions(h.versions, path.Child("admissionReviewVersions"))...)
	if r := h.reinvocation; r != nil && *r != admissionv1.NeverReinvocationPolicy && *r != admissionv1.IfNeededReinvocationPolicy {
		errs = append(errs, field.NotSupported(path.Child("reinvocationPolicy"), *r, []string{"IfNeeded", "Never"}))
	}
	return append(errs, validateConditions(h.conditions, path.Child("matchConditions"))...)
}

// validateClient takes any caBundle, as upstream: manifests have a placeholder there
// ("Cg=="), until an injector such as cert-manager's puts the authority in its place.
func (h hook) validateClient(path *field.Path) field.ErrorList {
	service := h.client.Service
	switch {
	case (h.client.URL == nil) == (service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case h.client.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *h.client.URL, true)
	}
	port := int32(443)
	if service.Port != nil {
		port = *service.Port
	}
	return webhook.ValidateWebhookService(path.Child("service"), service.Namespace, service.Name, service.Path, port)
}

func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	known := false
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
		}
		for _, msg := range utilvalidation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, msg))
		}
		known = known || slices.Contains(reviewVersions, v)
	}
	if !known {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

func validateSelector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
}

func validateRules(rules []admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validateRule(&rules[i], path.Index(i))...)
	}
	return errs
}

func validateRule(r *admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	operations := make([]string, len(r.Operations))
	for i, op := range r.Operations {
		operations[i] = string(op)
	}
	errs := validateChoice(operations, path.Child("operations"), "operations")
	for i, op := range operations {
		if !slices.Contains([]string{"CREATE", "UPDATE", "DELETE", "CONNECT", "*"}, op) {
			errs = append(errs, field.NotSupported(path.Child("operations").Index(i), op, []string{"*", "CONNECT", "CREATE", "DELETE", "UPDATE"}))
		}
	}
	errs = append(errs, validateChoice(r.APIGroups, path.Child("apiGroups"), "API groups")...)
	errs = append(errs, validateChoice(r.APIVersions, path.Child("apiVersions"), "API versions")...)
	for i, v := range r.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateResources(r.Resources, path.Child("resources"))...)
	if s := r.Scope; s != nil && *s != admissionv1.AllScopes && *s != admissionv1.ClusterScope && *s != admissionv1.NamespacedScope {
		errs = append(errs, field.NotSupported(path.Child("scope"), *s, []string{"*", "Cluster", "Namespaced"}))
	}
	return errs
}

// validateChoice wants something, and "*" alone. what names the values.
func validateChoice(values []string, path *field.Path, what string) field.ErrorList {
	if len(values) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

// validateResources refuses overlaps that hide a mistake: "*/*" or "*" beside others,
// "pods/*" beside "pods/status".
func validateResources(resources []string, path *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	whole, parts := map[string]bool{}, map[string]bool{}
	for i, r := range resources {
		if r == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		name, part, sub := strings.Cut(r, "/")
		switch {
		case r == "*/*":
			if len(resources) > 1 {
				errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
			}
		case sub && whole[name]:
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", name, r)))
		case sub && parts[part]:
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", part, r)))
		}
		if sub && part == "*" {
			whole[name] = true
		}
		if sub && name == "*" {
			parts[part] = true
		}
	}
	if slices.Contains(resources, "*") && slices.ContainsFunc(resources, func(r string) bool { return r != "*" && !strings.Contains(r, "/") }) {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
