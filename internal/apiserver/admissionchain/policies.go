package admissionchain

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// SetPolicyDefaults fills what a ValidatingAdmissionPolicy leaves open.
func SetPolicyDefaults(p *admissionv1.ValidatingAdmissionPolicy) {
	orElse(&p.Spec.FailurePolicy, admissionv1.Fail)
	setMatchDefaults(p.Spec.MatchConstraints)
}

// SetBindingDefaults fills what a ValidatingAdmissionPolicyBinding leaves open.
func SetBindingDefaults(b *admissionv1.ValidatingAdmissionPolicyBinding) {
	setMatchDefaults(b.Spec.MatchResources)
	setParamDefaults(b.Spec.ParamRef)
}

// SetMutatingPolicyDefaults fills what a MutatingAdmissionPolicy leaves open.
func SetMutatingPolicyDefaults(p *admissionv1.MutatingAdmissionPolicy) {
	orElse(&p.Spec.FailurePolicy, admissionv1.Fail)
	setMatchDefaults(p.Spec.MatchConstraints)
}

// SetMutatingBindingDefaults fills what a MutatingAdmissionPolicyBinding leaves open.
func SetMutatingBindingDefaults(b *admissionv1.MutatingAdmissionPolicyBinding) {
	setMatchDefaults(b.Spec.MatchResources)
	setParamDefaults(b.Spec.ParamRef)
}

func setMatchDefaults(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	orElse(&m.MatchPolicy, admissionv1.Equivalent)
	orElse(&m.NamespaceSelector, metav1.LabelSelector{})
	orElse(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			orElse(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

func setParamDefaults(r *admissionv1.ParamRef) {
	if r != nil {
		orElse(&r.ParameterNotFoundAction, admissionv1.DenyAction)
	}
}

// ValidatePolicy checks a ValidatingAdmissionPolicy, and compiles its expressions.
func ValidatePolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := validation.ValidateObjectMeta(&p.ObjectMeta, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	path := field.NewPath("spec")
	spec := &p.Spec
	errs = append(errs, validateFailurePolicy(spec.FailurePolicy, path.Child("failurePolicy"))...)
	errs = append(errs, validateParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, validateMatch(spec.MatchConstraints, true, path.Child("matchConstraints"))...)
	if len(spec.Validations)+len(spec.AuditAnnotations) == 0 {
		const one = "validations or auditAnnotations must contain at least one item"
		errs = append(errs, field.Required(path.Child("validations"), one), field.Required(path.Child("auditAnnotations"), one))
	}
	c, err := newCompiler(spec.ParamKind != nil)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	errs = append(errs, c.conditions(spec.MatchConditions, path.Child("matchConditions"))...)
	errs = append(errs, c.variables(spec.Variables, path.Child("variables"))...)
	for i := range spec.Validations {
		errs = append(errs, c.validation(&spec.Validations[i], path.Child("validations").Index(i))...)
	}
	return append(errs, c.annotations(p.Name, spec.AuditAnnotations, path.Child("auditAnnotations"))...)
}

// ValidateMutatingPolicy checks a MutatingAdmissionPolicy, and compiles its expressions.
func ValidateMutatingPolicy(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	errs := validation.ValidateObjectMeta(&p.ObjectMeta, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	path := field.NewPath("spec")
	spec := &p.Spec
	errs = append(errs, validateFailurePolicy(spec.FailurePolicy, path.Child("failurePolicy"))...)
	errs = append(errs, validateParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, validateMatch(spec.MatchConstraints, true, path.Child("matchConstraints"))...)
	errs = append(errs, validateChanging(spec.MatchConstraints, path.Child("matchConstraints"))...)
	switch r := spec.ReinvocationPolicy; {
	case r == "":
		errs = append(errs, field.Required(path.Child("reinvocationPolicy"), ""))
	case r != admissionv1.NeverReinvocationPolicy && r != admissionv1.IfNeededReinvocationPolicy:
		errs = append(errs, field.NotSupported(path.Child("reinvocationPolicy"), r, []string{"IfNeeded", "Never"}))
	}
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	c, err := newCompiler(spec.ParamKind != nil)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	errs = append(errs, c.conditions(spec.MatchConditions, path.Child("matchConditions"))...)
	errs = append(errs, c.variables(spec.Variables, path.Child("variables"))...)
	for i := range spec.Mutations {
		errs = append(errs, c.mutation(&spec.Mutations[i], path.Child("mutations").Index(i))...)
	}
	return errs
}

// ValidateBinding checks a ValidatingAdmissionPolicyBinding.
func ValidateBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateBinding(&b.ObjectMeta, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	actions := b.Spec.ValidationActions
	if len(actions) == 0 {
		errs = append(errs, field.Required(path.Child("validationActions"), "at least one validation action is required"))
	}
	for i, a := range actions {
		at := path.Child("validationActions").Index(i)
		if a != admissionv1.Deny && a != admissionv1.Warn && a != admissionv1.Audit {
			errs = append(errs, field.NotSupported(at, a, []string{"Audit", "Deny", "Warn"}))
		}
		if slices.Contains(actions[:i], a) {
			errs = append(errs, field.Duplicate(at, a))
		}
	}
	if slices.Contains(actions, admissionv1.Deny) && slices.Contains(actions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(path.Child("validationActions"), actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

// ValidateMutatingBinding checks a MutatingAdmissionPolicyBinding.
func ValidateMutatingBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateBinding(&b.ObjectMeta, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	return append(errs, validateChanging(b.Spec.MatchResources, field.NewPath("spec", "matchResources"))...)
}

func validateBinding(m *metav1.ObjectMeta, policy string, ref *admissionv1.ParamRef, match *admissionv1.MatchResources) field.ErrorList {
	errs := validation.ValidateObjectMeta(m, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	path := field.NewPath("spec")
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		for _, msg := range validation.NameIsDNSSubdomain(policy, false) {
			errs = append(errs, field.Invalid(path.Child("policyName"), policy, msg))
		}
	}
	errs = append(errs, validateMatch(match, false, path.Child("matchResources"))...)
	if ref == nil {
		return errs
	}
	at := path.Child("paramRef")
	switch {
	case ref.Name == "" && ref.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	case ref.Name != "" && ref.Selector != nil:
		for _, name := range []string{"name", "selector"} {
			errs = append(errs, field.Forbidden(at.Child(name), "name and selector are mutually exclusive"))
		}
	}
	if ref.Name != "" {
		for _, msg := range content.IsPathSegmentName(ref.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), ref.Name, msg))
		}
	}
	if a := ref.ParameterNotFoundAction; a == nil || *a == "" {
		errs = append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	} else if *a != admissionv1.AllowAction && *a != admissionv1.DenyAction {
		errs = append(errs, field.NotSupported(at.Child("parameterNotFoundAction"), *a, []string{"Allow", "Deny"}))
	}
	return append(errs, validateSelector(ref.Selector, at.Child("selector"))...)
}

func validateFailurePolicy(p *admissionv1.FailurePolicyType, path *field.Path) field.ErrorList {
	if p != nil && *p != admissionv1.Fail && *p != admissionv1.Ignore {
		return field.ErrorList{field.NotSupported(path, *p, []string{"Fail", "Ignore"})}
	}
	return nil
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) field.ErrorList {
	if k == nil {
		return nil
	}
	var errs field.ErrorList
	if k.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if msgs := utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	at := path.Child("apiVersion")
	if k.APIVersion == "" {
		return append(errs, field.Required(at, ""))
	}
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	if err != nil {
		return append(errs, field.Invalid(at, k.APIVersion, err.Error()))
	}
	if msgs := utilvalidation.IsDNS1123Subdomain(gv.Group); gv.Group != "" && len(msgs) > 0 {
		errs = append(errs, field.Invalid(at, gv.Group, strings.Join(msgs, ",")))
	}
	if gv.Version == "" {
		return append(errs, field.Invalid(at, k.APIVersion, "version must be specified"))
	}
	if msgs := utilvalidation.IsDNS1035Label(gv.Version); len(msgs) > 0 {
		errs = append(errs, field.Invalid(at, gv.Version, strings.Join(msgs, ",")))
	}
	return errs
}

func validateMatch(m *admissionv1.MatchResources, required bool, path *field.Path) field.ErrorList {
	if m == nil {
		if required {
			return field.ErrorList{field.Required(path, "")}
		}
		return nil
	}
	var errs field.ErrorList
	if p := m.MatchPolicy; p != nil && *p != admissionv1.Exact && *p != admissionv1.Equivalent {
		errs = append(errs, field.NotSupported(path.Child("matchPolicy"), *p, []string{"Equivalent", "Exact"}))
	}
	errs = append(errs, validateSelector(m.NamespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, validateSelector(m.ObjectSelector, path.Child("objectSelector"))...)
	if required && len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("resourceRules"), ""))
	}
	errs = append(errs, validateNamedRules(m.ResourceRules, path.Child("resourceRules"))...)
	return append(errs, validateNamedRules(m.ExcludeResourceRules, path.Child("excludeResourceRules"))...)
}

func validateNamedRules(rules []admissionv1.NamedRuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		names := rules[i].ResourceNames
		for j, name := range names {
			at := path.Index(i).Child("resourceNames").Index(j)
			for _, msg := range content.IsPathSegmentName(name) {
				errs = append(errs, field.Invalid(at, name, msg))
			}
			if slices.Contains(names[:j], name) {
				errs = append(errs, field.Duplicate(at, name))
			}
		}
		errs = append(errs, validateRule(&rules[i].RuleWithOperations, path.Index(i))...)
	}
	return errs
}

// validateChanging refuses rules for requests whose object a policy can't change.
func validateChanging(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	changing := []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update}
	var errs field.ErrorList
	for i := range m.ResourceRules {
		for _, op := range m.ResourceRules[i].Operations {
			if !slices.Contains(changing, op) {
				errs = append(errs, field.NotSupported(path.Child("resourceRules", "operations"), op, changing))
			}
		}
	}
	return errs
}
