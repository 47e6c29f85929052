package admissionchain

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// wantErrors compares errors with what each should contain, in any order.
func wantErrors(t *testing.T, got field.ErrorList, want []string) {
	t.Helper()
	left := append(field.ErrorList(nil), got...)
next:
	for _, text := range want {
		for i, err := range left {
			if strings.Contains(err.Error(), text) {
				left = append(left[:i], left[i+1:]...)
				continue next
			}
		}
		t.Errorf("no error says %q: %v", text, got)
	}
	if len(left) > 0 {
		t.Errorf("errors that nobody expects: %v", left)
	}
}

func rule(operation admissionv1.OperationType, resources ...string) admissionv1.RuleWithOperations {
	return admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{operation},
		Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: resources},
	}
}

func goodHook() admissionv1.MutatingWebhook {
	return admissionv1.MutatingWebhook{
		Name:                    "a.example.com",
		ClientConfig:            admissionv1.WebhookClientConfig{URL: new("https://hooks.example.com/a")},
		Rules:                   []admissionv1.RuleWithOperations{rule("CREATE", "services")},
		SideEffects:             new(admissionv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1"},
	}
}

func bySvc(change func(*admissionv1.ServiceReference)) func(*admissionv1.MutatingWebhook) {
	return func(w *admissionv1.MutatingWebhook) {
		ref := &admissionv1.ServiceReference{Namespace: "ns", Name: "hook"}
		change(ref)
		w.ClientConfig = admissionv1.WebhookClientConfig{Service: ref}
	}
}

// What a webhook may say, and upstream's words for what it may not. Both kinds of
// webhooks are told the same.
func TestValidateWebhooks(t *testing.T) {
	type hook = admissionv1.MutatingWebhook
	rules := func(r ...admissionv1.RuleWithOperations) func(*hook) { return func(w *hook) { w.Rules = r } }
	for name, c := range map[string]struct {
		change func(*hook)
		want   []string
	}{
		"good":            {func(*hook) {}, nil},
		"no rules":        {rules(), nil},
		"short name":      {func(w *hook) { w.Name = "a" }, []string{`webhooks[0].name: Invalid value: "a": should be a domain with at least three segments`}},
		"no name":         {func(w *hook) { w.Name = "" }, []string{"webhooks[0].name: Required"}},
		"bad name":        {func(w *hook) { w.Name = "A.example.com" }, []string{"webhooks[0].name: Invalid value"}},
		"no target":       {func(w *hook) { w.ClientConfig = admissionv1.WebhookClientConfig{} }, []string{"clientConfig: Required value: exactly one of url or service is required"}},
		"two targets":     {func(w *hook) { w.ClientConfig.Service = &admissionv1.ServiceReference{} }, []string{"exactly one of url or service is required"}},
		"plain http":      {func(w *hook) { w.ClientConfig.URL = new("http://x.example.com") }, []string{`clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme`}},
		"a URL with user": {func(w *hook) { w.ClientConfig.URL = new("https://u@x.example.com") }, []string{"user information is not permitted in the URL"}},
		// An injector fills it in later, as cert-manager's does.
		"a placeholder for the CA":    {func(w *hook) { w.ClientConfig.CABundle = []byte("\n") }, nil},
		"a Service":                   {bySvc(func(*admissionv1.ServiceReference) {}), nil},
		"a Service without namespace": {bySvc(func(r *admissionv1.ServiceReference) { r.Namespace = "" }), []string{"clientConfig.service.namespace: Required"}},
		"a Service without name":      {bySvc(func(r *admissionv1.ServiceReference) { r.Name = "" }), []string{"clientConfig.service.name: Required"}},
		"a Service's port":            {bySvc(func(r *admissionv1.ServiceReference) { r.Port = new(int32(70000)) }), []string{"clientConfig.service.port: Invalid value: 70000: port is not valid"}},
		"a Service's path":            {bySvc(func(r *admissionv1.ServiceReference) { r.Path = new("x/y") }), []string{"must start with a '/'", "segment[0] may not be empty"}},
		"no side effects said":        {func(w *hook) { w.SideEffects = nil }, []string{"sideEffects: Required value: must specify one of None, NoneOnDryRun"}},
		"some side effects":           {func(w *hook) { w.SideEffects = new(admissionv1.SideEffectClassSome) }, []string{`sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`}},
		"none on dry run":             {func(w *hook) { w.SideEffects = new(admissionv1.SideEffectClassNoneOnDryRun) }, nil},
		"no time":                     {func(w *hook) { w.TimeoutSeconds = new(int32(0)) }, []string{"timeoutSeconds: Invalid value: 0: the timeout value must be between 1 and 30 seconds"}},
		"a second":                    {func(w *hook) { w.TimeoutSeconds = new(int32(1)) }, nil},
		"30 seconds":                  {func(w *hook) { w.TimeoutSeconds = new(int32(30)) }, nil},
		"31 seconds":                  {func(w *hook) { w.TimeoutSeconds = new(int32(31)) }, []string{"timeoutSeconds: Invalid value: 31"}},
		"failurePolicy":               {func(w *hook) { w.FailurePolicy = new(admissionv1.FailurePolicyType("Maybe")) }, []string{`failurePolicy: Unsupported value: "Maybe": supported values: "Fail", "Ignore"`}},
		"matchPolicy":                 {func(w *hook) { w.MatchPolicy = new(admissionv1.MatchPolicyType("Near")) }, []string{`matchPolicy: Unsupported value: "Near": supported values: "Equivalent", "Exact"`}},
		"selectors": {func(w *hook) {
			bad := &metav1.LabelSelector{MatchLabels: map[string]string{"a b": "c"}}
			w.NamespaceSelector, w.ObjectSelector = bad, bad
		}, []string{"namespaceSelector.matchLabels: Invalid value", "objectSelector.matchLabels: Invalid value"}},
		"no review versions":       {func(w *hook) { w.AdmissionReviewVersions = nil }, []string{"admissionReviewVersions: Required value: must specify one of v1, v1beta1"}},
		"unknown review versions":  {func(w *hook) { w.AdmissionReviewVersions = []string{"v9"} }, []string{"must include at least one of v1, v1beta1"}},
		"a future version as well": {func(w *hook) { w.AdmissionReviewVersions = []string{"v9", "v1"} }, nil},
		"review versions": {
			func(w *hook) { w.AdmissionReviewVersions = []string{"v1", "v1", "V 1"} },
			[]string{"admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version", "admissionReviewVersions[2]: Invalid value"},
		},
		"every operation":   {rules(rule("*", "*")), nil},
		"unknown operation": {rules(rule("READ", "pods")), []string{`rules[0].operations[0]: Unsupported value: "READ": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`}},
		"an empty rule":     {rules(admissionv1.RuleWithOperations{}), []string{"rules[0].operations: Required", "rules[0].apiGroups: Required", "rules[0].apiVersions: Required", "rules[0].resources: Required"}},
		"stars beside others": {func(w *hook) {
			w.Rules[0].Operations = []admissionv1.OperationType{"*", "CREATE"}
			w.Rules[0].APIGroups, w.Rules[0].APIVersions = []string{"", "*"}, []string{"*", "v1"}
			w.Rules[0].Resources = []string{"*", "pods"}
		}, []string{
			"must not specify other operations", "must not specify other API groups", "must not specify other API versions",
			"if '*' is present, must not specify other resources without subresources",
		}},
		"an empty version":      {func(w *hook) { w.Rules[0].APIVersions = []string{""} }, []string{"rules[0].apiVersions[0]: Required"}},
		"an empty resource":     {rules(rule("CREATE", "")), []string{"rules[0].resources[0]: Required"}},
		"all beside another":    {rules(rule("CREATE", "*/*", "pods")), []string{"if '*/*' is present, must not specify other resources"}},
		"part of a whole":       {rules(rule("CREATE", "pods/*", "pods/status")), []string{"rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status"}},
		"one of all":            {rules(rule("CREATE", "*/scale", "pods/scale")), []string{"if '*/scale' is present, must not specify pods/scale"}},
		"all and subresources":  {rules(rule("CREATE", "*", "pods/status")), nil},
		"scope":                 {func(w *hook) { w.Rules[0].Scope = new(admissionv1.ScopeType("World")) }, []string{`rules[0].scope: Unsupported value: "World": supported values: "*", "Cluster", "Namespaced"`}},
		"a condition":           {conditions(admissionv1.MatchCondition{Name: "a", Expression: "object.metadata.name != 'x'"}), nil},
		"conditions don't hold": {conditions(admissionv1.MatchCondition{Name: "a", Expression: "1 + 1"}), []string{`matchConditions[0].expression: Invalid value: "1 + 1": must evaluate to bool`}},
		"conditions don't compile": {
			conditions(admissionv1.MatchCondition{Name: "a", Expression: "object.("}, admissionv1.MatchCondition{Name: "a", Expression: "params.x"}, admissionv1.MatchCondition{}),
			[]string{
				"matchConditions[0].expression: Invalid value: \"object.(\": compilation failed", "matchConditions[1].expression: Invalid value: \"params.x\": compilation failed",
				"matchConditions[1].name: Duplicate value: \"a\"", "matchConditions[2].expression: Required", "matchConditions[2].name: Required",
			},
		},
		"a condition's name":  {conditions(admissionv1.MatchCondition{Name: "a b", Expression: "true"}), []string{"matchConditions[0].name: Invalid value"}},
		"too many conditions": {conditions(manyConditions()...), []string{"matchConditions: Too many: 65: must have at most 64 items"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := goodHook()
			c.change(&m)
			wantErrors(t, ValidateMutating(&admissionv1.MutatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: "x"}, Webhooks: []admissionv1.MutatingWebhook{m},
			}), c.want)
			wantErrors(t, ValidateValidating(&admissionv1.ValidatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: "x"}, Webhooks: []admissionv1.ValidatingWebhook{{
					Name: m.Name, ClientConfig: m.ClientConfig, Rules: m.Rules, FailurePolicy: m.FailurePolicy, MatchPolicy: m.MatchPolicy,
					NamespaceSelector: m.NamespaceSelector, ObjectSelector: m.ObjectSelector, SideEffects: m.SideEffects,
					TimeoutSeconds: m.TimeoutSeconds, AdmissionReviewVersions: m.AdmissionReviewVersions, MatchConditions: m.MatchConditions,
				}},
			}), c.want)
		})
	}
}

func conditions(m ...admissionv1.MatchCondition) func(*admissionv1.MutatingWebhook) {
	return func(w *admissionv1.MutatingWebhook) { w.MatchConditions = m }
}

func manyConditions() []admissionv1.MatchCondition {
	var out []admissionv1.MatchCondition
	for i := range 65 {
		out = append(out, admissionv1.MatchCondition{Name: "c" + strings.Repeat("x", i%40) + string(rune('a'+i/40)), Expression: "true"})
	}
	return out
}

// Names are unique in a configuration, and its own is one that a path can have;
// reinvocation is for mutating webhooks alone.
func TestValidateConfigurations(t *testing.T) {
	a, b := goodHook(), goodHook()
	b.ReinvocationPolicy = new(admissionv1.ReinvocationPolicyType("Often"))
	wantErrors(t, ValidateMutating(&admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "Not/good"}, Webhooks: []admissionv1.MutatingWebhook{a, b},
	}), []string{
		"metadata.name: Invalid value", `webhooks[1].name: Duplicate value: "a.example.com"`,
		`webhooks[1].reinvocationPolicy: Unsupported value: "Often": supported values: "IfNeeded", "Never"`,
	})
}

// Defaults are upstream's, and valid.
func TestWebhookDefaults(t *testing.T) {
	c := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Webhooks: []admissionv1.MutatingWebhook{goodHook()}}
	bySvc(func(*admissionv1.ServiceReference) {})(&c.Webhooks[0])
	SetMutatingDefaults(c)
	w := c.Webhooks[0]
	if *w.FailurePolicy != "Fail" || *w.MatchPolicy != "Equivalent" || *w.TimeoutSeconds != 10 || *w.ReinvocationPolicy != "Never" ||
		*w.Rules[0].Scope != "*" || *w.ClientConfig.Service.Port != 443 || w.NamespaceSelector == nil || w.ObjectSelector == nil {
		t.Errorf("got %+v", w)
	}
	wantErrors(t, ValidateMutating(c), nil)
	c.Webhooks[0].TimeoutSeconds = new(int32(3))
	SetMutatingDefaults(c)
	if *c.Webhooks[0].TimeoutSeconds != 3 {
		t.Error("a default overwrote what was there")
	}
}
