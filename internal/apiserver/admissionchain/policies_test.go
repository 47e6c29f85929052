package admissionchain

import (
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func goodPolicy() *admissionv1.ValidatingAdmissionPolicy {
	return &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p.example.com"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rule("CREATE", "services")}}},
			Validations:      []admissionv1.Validation{{Expression: "object.spec.ports.size() < 5"}},
		},
	}
}

// What a policy may say, and upstream's words for what it may not.
func TestValidatePolicy(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicySpec
	validation := func(v admissionv1.Validation) func(*spec) {
		return func(s *spec) { s.Validations = []admissionv1.Validation{v} }
	}
	variables := func(v ...admissionv1.Variable) func(*spec) { return func(s *spec) { s.Variables = v } }
	param := func(version, kind string) func(*spec) {
		return func(s *spec) { s.ParamKind = &admissionv1.ParamKind{APIVersion: version, Kind: kind} }
	}
	annotations := func(a ...admissionv1.AuditAnnotation) func(*spec) { return func(s *spec) { s.AuditAnnotations = a } }
	for name, c := range map[string]struct {
		change func(*spec)
		want   []string
	}{
		"good":             {func(*spec) {}, nil},
		"nothing to check": {func(s *spec) { s.Validations = nil }, []string{"spec.validations: Required value: validations or auditAnnotations must contain", "spec.auditAnnotations: Required"}},
		"no constraints":   {func(s *spec) { s.MatchConstraints = nil }, []string{"spec.matchConstraints: Required"}},
		"no rules":         {func(s *spec) { s.MatchConstraints.ResourceRules = nil }, []string{"spec.matchConstraints.resourceRules: Required"}},
		"a bad rule":       {func(s *spec) { s.MatchConstraints.ResourceRules[0].Operations = nil }, []string{"spec.matchConstraints.resourceRules[0].operations: Required"}},
		"names of objects": {
			func(s *spec) { s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"a", "a", "b/c"} },
			[]string{`resourceNames[1]: Duplicate value: "a"`, `resourceNames[2]: Invalid value: "b/c"`},
		},
		"failurePolicy":           {func(s *spec) { s.FailurePolicy = new(admissionv1.FailurePolicyType("Maybe")) }, []string{`spec.failurePolicy: Unsupported value: "Maybe"`}},
		"matchPolicy":             {func(s *spec) { s.MatchConstraints.MatchPolicy = new(admissionv1.MatchPolicyType("Near")) }, []string{`spec.matchConstraints.matchPolicy: Unsupported value: "Near"`}},
		"no expression":           {validation(admissionv1.Validation{Expression: " "}), []string{"spec.validations[0].expression: Required value: expression is not specified"}},
		"doesn't compile":         {validation(admissionv1.Validation{Expression: "object.spec.("}), []string{`spec.validations[0].expression: Invalid value: "object.spec.(": compilation failed`}},
		"unknown name":            {validation(admissionv1.Validation{Expression: "thing == 1"}), []string{"undeclared reference to 'thing'"}},
		"no bool":                 {validation(admissionv1.Validation{Expression: "'a'"}), []string{"must evaluate to bool"}},
		"params without a kind":   {validation(admissionv1.Validation{Expression: "params.x == 1"}), []string{"undeclared reference to 'params'"}},
		"lines without a message": {validation(admissionv1.Validation{Expression: "true &&\n  true\n"}), nil}, // as upstream
		"a message of YAML's |":   {validation(admissionv1.Validation{Expression: "true", Message: "no\n"}), nil},
		"a blank message":         {validation(admissionv1.Validation{Expression: "true", Message: " "}), []string{"message: Invalid value: \" \": must be non-empty if specified"}},
		"a message of two lines":  {validation(admissionv1.Validation{Expression: "true", Message: "a\nb"}), []string{"must not contain line breaks"}},
		"a message by expression": {validation(admissionv1.Validation{Expression: "true", MessageExpression: "'a' + object.metadata.name"}), nil},
		"a blank one":             {validation(admissionv1.Validation{Expression: "true", MessageExpression: " "}), []string{"messageExpression: Invalid value: \" \": must be non-empty if specified"}},
		"one that is no text":     {validation(admissionv1.Validation{Expression: "true", MessageExpression: "1"}), []string{"messageExpression: Invalid value: \"1\": must evaluate to string"}},
		"one that asks who may": {
			validation(admissionv1.Validation{Expression: "true", MessageExpression: "string(authorizer.group('').resource('pods').check('get').allowed())"}),
			[]string{"undeclared reference to 'authorizer'"},
		},
		"an expression that asks who may": {validation(admissionv1.Validation{Expression: "authorizer.group('').resource('pods').check('get').allowed()"}), nil},
		"reason":                          {validation(admissionv1.Validation{Expression: "true", Reason: new(metav1.StatusReason("Because"))}), []string{`reason: Unsupported value: "Because": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"`}},
		"variables in order": {func(s *spec) {
			variables(admissionv1.Variable{Name: "n", Expression: "object.spec.ports.size()"}, admissionv1.Variable{Name: "few", Expression: "variables.n < 3"})(s)
			validation(admissionv1.Validation{Expression: "variables.few"})(s)
		}, nil},
		"a variable before it is set": {variables(admissionv1.Variable{Name: "a", Expression: "variables.b"}, admissionv1.Variable{Name: "b", Expression: "1"}), []string{"spec.variables[0].expression: Invalid value: \"variables.b\""}},
		"variables' names": {
			variables(admissionv1.Variable{Name: "", Expression: "1"}, admissionv1.Variable{Name: "a-b", Expression: "1"}, admissionv1.Variable{Name: "in", Expression: "1"},
				admissionv1.Variable{Name: "c", Expression: "1"}, admissionv1.Variable{Name: "c", Expression: "1"}, admissionv1.Variable{Name: "d"}),
			[]string{
				"spec.variables[0].name: Required value: name is not specified", `spec.variables[1].name: Invalid value: "a-b": must be a valid CEL identifier`,
				`spec.variables[2].name: Invalid value: "in"`, `spec.variables[4].name: Duplicate value: "c"`, "spec.variables[5].expression: Required",
			},
		},
		"a condition sees no variables": {func(s *spec) {
			variables(admissionv1.Variable{Name: "n", Expression: "true"})(s)
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "variables.n"}}
		}, []string{"spec.matchConditions[0].expression: Invalid value: \"variables.n\""}},
		"a condition sees parameters": {func(s *spec) {
			param("v1", "ConfigMap")(s)
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "params.data.x == 'y'"}}
		}, nil},
		"paramKind":               {param("rules.example.com/v1", "Limit"), nil},
		"an empty paramKind":      {param("", ""), []string{"spec.paramKind.apiVersion: Required", "spec.paramKind.kind: Required"}},
		"paramKind of two groups": {param("a/b/c", "Limit"), []string{"spec.paramKind.apiVersion: Invalid value: \"a/b/c\""}},
		"paramKind's form":        {param("A_/V 1", "Not A Kind"), []string{`apiVersion: Invalid value: "A_"`, `apiVersion: Invalid value: "V 1"`, `kind: Invalid value: "Not A Kind": may have mixed case`}},
		"annotations": {
			annotations(admissionv1.AuditAnnotation{Key: "k", ValueExpression: "'x'"}, admissionv1.AuditAnnotation{Key: "k", ValueExpression: "1"},
				admissionv1.AuditAnnotation{Key: "a b", ValueExpression: " "}, admissionv1.AuditAnnotation{Key: "long", ValueExpression: "'" + strings.Repeat("x", 5<<10) + "'"}),
			[]string{
				`spec.auditAnnotations[1].key: Duplicate value: "k"`, "spec.auditAnnotations[1].valueExpression: Invalid value: \"1\"",
				"spec.auditAnnotations[2].key: Invalid value", "spec.auditAnnotations[2].valueExpression: Required", "spec.auditAnnotations[3].valueExpression: Too long",
			},
		},
		"too many annotations": {annotations(manyAnnotations()...), []string{"spec.auditAnnotations: Too many: 21: must have at most 20 items"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := goodPolicy()
			c.change(&p.Spec)
			wantErrors(t, ValidatePolicy(p), c.want)
		})
	}
	p := goodPolicy()
	p.Name = "Not/good"
	wantErrors(t, ValidatePolicy(p), []string{"metadata.name: Invalid value"})
	p = goodPolicy()
	SetPolicyDefaults(p)
	m := p.Spec.MatchConstraints
	if *p.Spec.FailurePolicy != "Fail" || *m.MatchPolicy != "Equivalent" || m.NamespaceSelector == nil || m.ObjectSelector == nil || *m.ResourceRules[0].Scope != "*" {
		t.Errorf("defaults: %+v", p.Spec)
	}
	wantErrors(t, ValidatePolicy(p), nil)
}

func manyAnnotations() []admissionv1.AuditAnnotation {
	var out []admissionv1.AuditAnnotation
	for i := range 21 {
		out = append(out, admissionv1.AuditAnnotation{Key: fmt.Sprintf("k%d", i), ValueExpression: "'x'"})
	}
	return out
}

// The same for what changes objects.
func TestValidateMutatingPolicy(t *testing.T) {
	type spec = admissionv1.MutatingAdmissionPolicySpec
	mutation := func(m admissionv1.Mutation) func(*spec) {
		return func(s *spec) { s.Mutations = []admissionv1.Mutation{m} }
	}
	apply := func(text string) *admissionv1.ApplyConfiguration {
		return &admissionv1.ApplyConfiguration{Expression: text}
	}
	patch := func(text string) *admissionv1.JSONPatch { return &admissionv1.JSONPatch{Expression: text} }
	const good = `Object{metadata: Object.metadata{labels: {"a": "b"}}}`
	const goodPatch = `[JSONPatch{op: "add", path: "/metadata/labels/a", value: "b"}]`
	for name, c := range map[string]struct {
		change func(*spec)
		want   []string
	}{
		"apply":            {func(*spec) {}, nil},
		"patch":            {mutation(admissionv1.Mutation{PatchType: "JSONPatch", JSONPatch: patch(goodPatch)}), nil},
		"none":             {func(s *spec) { s.Mutations = nil }, []string{"spec.mutations: Required value: mutations must contain at least one item"}},
		"no type":          {mutation(admissionv1.Mutation{JSONPatch: patch(goodPatch)}), []string{"spec.mutations[0].patchType: Required"}},
		"unknown type":     {mutation(admissionv1.Mutation{PatchType: "Merge"}), []string{`patchType: Unsupported value: "Merge": supported values: "ApplyConfiguration", "JSONPatch"`}},
		"type of another":  {mutation(admissionv1.Mutation{PatchType: "JSONPatch", ApplyConfiguration: apply(good)}), []string{"jsonPatch: Required value: must be specified when patchType is JSONPatch", "applyConfiguration: Invalid value"}},
		"both":             {mutation(admissionv1.Mutation{PatchType: "ApplyConfiguration", ApplyConfiguration: apply(good), JSONPatch: patch(goodPatch)}), []string{"must not be specified when patchType is ApplyConfiguration"}},
		"empty":            {mutation(admissionv1.Mutation{PatchType: "ApplyConfiguration", ApplyConfiguration: apply(" ")}), []string{"applyConfiguration.expression: Required"}},
		"doesn't compile":  {mutation(admissionv1.Mutation{PatchType: "ApplyConfiguration", ApplyConfiguration: apply("Object{")}), []string{"applyConfiguration.expression: Invalid value: \"Object{\": compilation failed"}},
		"no object":        {mutation(admissionv1.Mutation{PatchType: "ApplyConfiguration", ApplyConfiguration: apply("true")}), []string{"must evaluate to Object"}},
		"no patch":         {mutation(admissionv1.Mutation{PatchType: "JSONPatch", JSONPatch: patch("1")}), []string{"jsonPatch.expression: Invalid value: \"1\""}},
		"of deletions":     {func(s *spec) { s.MatchConstraints.ResourceRules[0].Operations = []admissionv1.OperationType{"DELETE"} }, []string{`resourceRules.operations: Unsupported value: "DELETE"`}},
		"no reinvocation":  {func(s *spec) { s.ReinvocationPolicy = "" }, []string{"spec.reinvocationPolicy: Required"}},
		"bad reinvocation": {func(s *spec) { s.ReinvocationPolicy = "Often" }, []string{`spec.reinvocationPolicy: Unsupported value: "Often"`}},
		"no constraints":   {func(s *spec) { s.MatchConstraints = nil }, []string{"spec.matchConstraints: Required"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &admissionv1.MutatingAdmissionPolicy{
				ObjectMeta: metav1.ObjectMeta{Name: "p"},
				Spec: spec{
					MatchConstraints:   goodPolicy().Spec.MatchConstraints,
					ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
					Mutations:          []admissionv1.Mutation{{PatchType: "ApplyConfiguration", ApplyConfiguration: apply(good)}},
				},
			}
			c.change(&p.Spec)
			SetMutatingPolicyDefaults(p)
			wantErrors(t, ValidateMutatingPolicy(p), c.want)
		})
	}
}

// Bindings name a policy, say what happens, and where from the parameters come.
func TestValidateBinding(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicyBindingSpec
	actions := func(a ...admissionv1.ValidationAction) func(*spec) { return func(s *spec) { s.ValidationActions = a } }
	ref := func(r admissionv1.ParamRef) func(*spec) { return func(s *spec) { s.ParamRef = &r } }
	some := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	for name, c := range map[string]struct {
		change func(*spec)
		want   []string
	}{
		"good":            {func(*spec) {}, nil},
		"no policy":       {func(s *spec) { s.PolicyName = "" }, []string{"spec.policyName: Required"}},
		"bad policy":      {func(s *spec) { s.PolicyName = "A_B" }, []string{`spec.policyName: Invalid value: "A_B"`}},
		"no action":       {actions(), []string{"spec.validationActions: Required value: at least one validation action is required"}},
		"unknown action":  {actions("Shout"), []string{`spec.validationActions[0]: Unsupported value: "Shout": supported values: "Audit", "Deny", "Warn"`}},
		"an action twice": {actions("Warn", "Warn"), []string{`spec.validationActions[1]: Duplicate value: "Warn"`}},
		"denied, warned":  {actions("Deny", "Warn"), []string{"must not contain both Deny and Warn"}},
		"warned, written": {actions("Warn", "Audit"), nil},
		"a parameter":     {ref(admissionv1.ParamRef{Name: "x"}), nil},
		"parameters":      {ref(admissionv1.ParamRef{Selector: some}), nil},
		"no parameter":    {ref(admissionv1.ParamRef{}), []string{"spec.paramRef: Required value: one of name or selector must be specified"}},
		"both": {ref(admissionv1.ParamRef{Name: "x", Selector: some}), []string{
			"spec.paramRef.name: Forbidden: name and selector are mutually exclusive", "spec.paramRef.selector: Forbidden",
		}},
		"a bad name":       {ref(admissionv1.ParamRef{Name: "a/b"}), []string{`spec.paramRef.name: Invalid value: "a/b"`}},
		"not found action": {ref(admissionv1.ParamRef{Name: "x", ParameterNotFoundAction: new(admissionv1.ParameterNotFoundActionType("Guess"))}), []string{`parameterNotFoundAction: Unsupported value: "Guess"`}},
		"a bad rule": {func(s *spec) {
			s.MatchResources = &admissionv1.MatchResources{ExcludeResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rule("READ", "pods")}}}
		}, []string{"spec.matchResources.excludeResourceRules[0].operations[0]: Unsupported value"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &admissionv1.ValidatingAdmissionPolicyBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: spec{PolicyName: "p", ValidationActions: []admissionv1.ValidationAction{"Deny"}},
			}
			c.change(&b.Spec)
			SetBindingDefaults(b)
			wantErrors(t, ValidateBinding(b), c.want)
		})
	}
	m := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{
		PolicyName: "p", ParamRef: &admissionv1.ParamRef{Name: "x"},
		MatchResources: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rule("DELETE", "pods")}}},
	}}
	SetMutatingBindingDefaults(m)
	wantErrors(t, ValidateMutatingBinding(m), []string{`spec.matchResources.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`})
}
