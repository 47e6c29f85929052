package admissionchain

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

const (
	// maxConditions bounds matchConditions, maxAnnotations auditAnnotations and the
	// length of one's expression (the API's documentation of the fields).
	maxConditions           = 64
	maxAnnotations          = 20
	maxAnnotationExpression = 5 << 10
)

// identifier is the form of CEL's identifiers, reserved are the words that are none (the
// CEL specification, "Syntax").
var (
	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reserved   = []string{
		"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
		"let", "loop", "package", "namespace", "return", "var", "void", "while",
	}
)

// compiler finds mistakes in expressions as they are written. What is stored is
// compiled once more where it is evaluated, with the library's tolerance for what an
// older server took.
type compiler struct {
	cel     *cel.CompositedCompiler
	options cel.OptionalVariableDeclarations
}

func newCompiler(params bool) (*compiler, error) {
	c, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, fmt.Errorf("prepare the compiler of expressions: %w", err)
	}
	return &compiler{c, cel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}}, nil
}

// needed compiles an expression that must be there.
func (c *compiler) needed(text string, accessor cel.ExpressionAccessor, options cel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	if strings.TrimSpace(text) == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return c.compile(text, accessor, options, path)
}

func (c *compiler) compile(text string, accessor cel.ExpressionAccessor, options cel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	result := c.cel.CompileCELExpression(accessor, options, environment.NewExpressions)
	return celErrors(result.Error, text, path)
}

func celErrors(err *apiservercel.Error, text string, path *field.Path) field.ErrorList {
	switch {
	case err == nil:
		return nil
	case err.Type == apiservercel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(path, err)}
	}
	return field.ErrorList{field.Invalid(path, text, err.Detail)}
}

func (c *compiler) variables(variables []admissionv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range variables {
		at := path.Index(i)
		switch {
		case strings.TrimSpace(v.Name) == "":
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		case !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name):
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		case slices.ContainsFunc(variables[:i], func(o admissionv1.Variable) bool { return o.Name == v.Name }):
			errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
		case strings.TrimSpace(v.Expression) == "":
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
		default:
			result := c.cel.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, c.options, environment.NewExpressions)
			errs = append(errs, celErrors(result.Error, v.Expression, at.Child("expression"))...)
		}
	}
	return errs
}

func (c *compiler) conditions(conditions []admissionv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxConditions))
	}
	for i := range conditions {
		m, at := &conditions[i], path.Index(i)
		errs = append(errs, c.needed(m.Expression, (*matchconditions.MatchCondition)(m), c.options, at.Child("expression"))...)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		for _, msg := range utilvalidation.IsQualifiedName(m.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, msg))
		}
		if slices.ContainsFunc(conditions[:i], func(o admissionv1.MatchCondition) bool { return o.Name == m.Name }) {
			errs = append(errs, field.Duplicate(at.Child("name"), m.Name))
		}
	}
	return errs
}

func (c *compiler) validation(v *admissionv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = c.compile(v.Expression, &validating.ValidationCondition{Expression: v.Expression}, c.options, path.Child("expression"))
	}
	const blank = "must be non-empty if specified"
	switch {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		errs = append(errs, field.Invalid(path.Child("messageExpression"), v.MessageExpression, blank))
	default:
		options := c.options
		options.HasAuthorizer = false
		errs = append(errs, c.compile(v.MessageExpression, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, options, path.Child("messageExpression"))...)
	}
	// A line break at the end is what YAML's "|" leaves: it is let pass, as upstream.
	switch message := strings.TrimSpace(v.Message); {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, blank))
	case strings.ContainsAny(message, "\r\n"):
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	known := []metav1.StatusReason{metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge}
	if v.Reason != nil && !slices.Contains(known, *v.Reason) {
		errs = append(errs, field.NotSupported(path.Child("reason"), *v.Reason, known))
	}
	return errs
}

// annotations checks the audit annotations of a policy, whose name is part of their keys.
func (c *compiler) annotations(policy string, annotations []admissionv1.AuditAnnotation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(annotations) > maxAnnotations {
		errs = append(errs, field.TooMany(path, len(annotations), maxAnnotations))
	}
	for i, a := range annotations {
		at := path.Index(i)
		if policy == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			for _, msg := range utilvalidation.IsQualifiedName(policy + "/" + a.Key) {
				errs = append(errs, field.Invalid(at.Child("key"), policy+"/"+a.Key, msg))
			}
		}
		if slices.ContainsFunc(annotations[:i], func(o admissionv1.AuditAnnotation) bool { return o.Key == a.Key }) {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		text := strings.TrimSpace(a.ValueExpression)
		switch {
		case text == "":
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		case len(text) > maxAnnotationExpression:
			errs = append(errs, field.TooLong(at.Child("valueExpression"), "", maxAnnotationExpression))
		default:
			errs = append(errs, c.compile(text, &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: text}, c.options, at.Child("valueExpression"))...)
		}
	}
	return errs
}

func (c *compiler) mutation(m *admissionv1.Mutation, path *field.Path) field.ErrorList {
	options := c.options
	options.HasPatchTypes = true
	apply, patches := path.Child("applyConfiguration"), path.Child("jsonPatch")
	var errs field.ErrorList
	switch m.PatchType {
	case "":
		return field.ErrorList{field.Required(path.Child("patchType"), "")}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patches, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
		if m.ApplyConfiguration == nil {
			return append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		}
		text := strings.TrimSpace(m.ApplyConfiguration.Expression)
		return append(errs, c.needed(text, &patch.ApplyConfigurationCondition{Expression: text}, options, apply.Child("expression"))...)
	case admissionv1.PatchTypeJSONPatch:
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
		if m.JSONPatch == nil {
			return append(errs, field.Required(patches, "must be specified when patchType is JSONPatch"))
		}
		text := strings.TrimSpace(m.JSONPatch.Expression)
		return append(errs, c.needed(text, &patch.JSONPatchCondition{Expression: text}, options, patches.Child("expression"))...)
	}
	return field.ErrorList{field.NotSupported(path.Child("patchType"), m.PatchType, []string{"ApplyConfiguration", "JSONPatch"})}
}

// validateConditions checks the matchConditions of a webhook.
func validateConditions(conditions []admissionv1.MatchCondition, path *field.Path) field.ErrorList {
	if len(conditions) == 0 {
		return nil // no compiler is made for nothing
	}
	c, err := newCompiler(false)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	return c.conditions(conditions, path)
}
