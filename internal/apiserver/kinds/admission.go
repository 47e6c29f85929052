package kinds

import (
	"strconv"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"

	"portico.dev/portico/internal/apiserver/admissionchain"
	"portico.dev/portico/internal/apiserver/registry"
)

// AdmissionPrefixes are where the store has what awakes admission by webhooks and
// policies: the folders of this file's kinds begin with these.
var AdmissionPrefixes = []string{"/mutating", "/validating"}

// addAdmission serves webhook configurations and admission policies.
func addAdmission(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
	for _, build := range []buildFunc{
		plain(mutatingWebhookKind()), plain(validatingWebhookKind()), plain(validatingPolicyKind()),
		plain(ruled(registry.Stored[admissionv1.ValidatingAdmissionPolicyBinding, admissionv1.ValidatingAdmissionPolicyBindingList](
			admissionv1.SchemeGroupVersion, "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", registry.InCluster),
			admissionchain.ValidateBinding,
			func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return b.Spec }).
			Printed(func(b *admissionv1.ValidatingAdmissionPolicyBinding) []any {
				return bindingCells(b.Spec.PolicyName, b.Spec.ParamRef)
			}, policyBindingColumns()...)),
		plain(mutatingPolicyKind()),
		plain(ruled(registry.Stored[admissionv1.MutatingAdmissionPolicyBinding, admissionv1.MutatingAdmissionPolicyBindingList](
			admissionv1.SchemeGroupVersion, "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", registry.InCluster),
			admissionchain.ValidateMutatingBinding,
			func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return b.Spec }).
			Printed(func(b *admissionv1.MutatingAdmissionPolicyBinding) []any {
				return bindingCells(b.Spec.PolicyName, b.Spec.ParamRef)
			}, policyBindingColumns()...)),
	} {
		if err := build(s, scheme, options); err != nil {
			return err
		}
	}
	return nil
}

// ruled has the kind checked by validate; of an update only when what matters changed,
// so that a stored object which a newer server would refuse can still be labelled or
// deleted.
func ruled[T runtime.Object](k registry.Kind[T], validate func(T) field.ErrorList, matters func(T) any) registry.Kind[T] {
	k.Rules.Validate = validate
	return k.Fixed(func(obj, old T) field.ErrorList {
		if equality.Semantic.DeepEqual(matters(obj), matters(old)) {
			return nil
		}
		return validate(obj)
	})
}

func mutatingWebhookKind() registry.Kind[*admissionv1.MutatingWebhookConfiguration] {
	return hooked(registry.Stored[admissionv1.MutatingWebhookConfiguration, admissionv1.MutatingWebhookConfigurationList](
		admissionv1.SchemeGroupVersion, "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", registry.InCluster),
		admissionchain.ValidateMutating, func(c *admissionv1.MutatingWebhookConfiguration) []admissionv1.MutatingWebhook { return c.Webhooks })
}

func validatingWebhookKind() registry.Kind[*admissionv1.ValidatingWebhookConfiguration] {
	return hooked(registry.Stored[admissionv1.ValidatingWebhookConfiguration, admissionv1.ValidatingWebhookConfigurationList](
		admissionv1.SchemeGroupVersion, "validatingwebhookconfigurations", "validatingwebhookconfiguration", registry.InCluster),
		admissionchain.ValidateValidating, func(c *admissionv1.ValidatingWebhookConfiguration) []admissionv1.ValidatingWebhook { return c.Webhooks })
}

// configuration is an object without a spec.
type configuration interface {
	runtime.Object
	GetGeneration() int64
	SetGeneration(int64)
}

// hooked are the rules of webhooks' configurations, whose generation counts the changes of
// their webhooks.
func hooked[T configuration, W any](k registry.Kind[T], validate func(T) field.ErrorList, webhooks func(T) []W) registry.Kind[T] {
	k = ruled(k, validate, func(c T) any { return webhooks(c) })
	k.Rules.PrepareCreate = func(c T) { c.SetGeneration(1) }
	k.Rules.PrepareUpdate = func(c, old T) {
		n := old.GetGeneration()
		if !equality.Semantic.DeepEqual(webhooks(c), webhooks(old)) {
			n++
		}
		c.SetGeneration(n)
	}
	return k.Printed(func(c T) []any { return []any{strconv.Itoa(len(webhooks(c)))} }, registry.Column("Webhooks", "How many webhooks it has."))
}

func validatingPolicyKind() registry.Kind[*admissionv1.ValidatingAdmissionPolicy] {
	return ruled(registry.Stored[admissionv1.ValidatingAdmissionPolicy, admissionv1.ValidatingAdmissionPolicyList](
		admissionv1.SchemeGroupVersion, "validatingadmissionpolicies", "validatingadmissionpolicy", registry.InCluster),
		admissionchain.ValidatePolicy, func(p *admissionv1.ValidatingAdmissionPolicy) any { return p.Spec }).
		Printed(func(p *admissionv1.ValidatingAdmissionPolicy) []any {
			return []any{strconv.Itoa(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind)}
		}, policyColumns("Validations")...)
}

func mutatingPolicyKind() registry.Kind[*admissionv1.MutatingAdmissionPolicy] {
	return ruled(registry.Stored[admissionv1.MutatingAdmissionPolicy, admissionv1.MutatingAdmissionPolicyList](
		admissionv1.SchemeGroupVersion, "mutatingadmissionpolicies", "mutatingadmissionpolicy", registry.InCluster),
		admissionchain.ValidateMutatingPolicy, func(p *admissionv1.MutatingAdmissionPolicy) any { return p.Spec }).
		Printed(func(p *admissionv1.MutatingAdmissionPolicy) []any {
			return []any{strconv.Itoa(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind)}
		}, policyColumns("Mutations")...)
}

func policyColumns(what string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{registry.Column(what, "How many it has."), registry.Column("ParamKind", "The kind of its parameters.")}
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func policyBindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{registry.Column("PolicyName", "The policy that it puts in force."), registry.Column("ParamRef", "The policy's parameters.")}
}

func bindingCells(policy string, ref *admissionv1.ParamRef) []any {
	param := "<unset>"
	switch {
	case ref == nil:
	case ref.Name == "":
		param = "*"
	case ref.Namespace == "":
		param = ref.Name
	default:
		param = ref.Namespace + "/" + ref.Name
	}
	return []any{policy, param}
}

// addAdmissionDefaults registers the defaults of this file's kinds.
func addAdmissionDefaults(s *runtime.Scheme) {
	setDefaults(s, admissionchain.SetMutatingDefaults, func(l *admissionv1.MutatingWebhookConfigurationList) []admissionv1.MutatingWebhookConfiguration {
		return l.Items
	})
	setDefaults(s, admissionchain.SetValidatingDefaults, func(l *admissionv1.ValidatingWebhookConfigurationList) []admissionv1.ValidatingWebhookConfiguration {
		return l.Items
	})
	setDefaults(s, admissionchain.SetPolicyDefaults, func(l *admissionv1.ValidatingAdmissionPolicyList) []admissionv1.ValidatingAdmissionPolicy {
		return l.Items
	})
	setDefaults(s, admissionchain.SetBindingDefaults, func(l *admissionv1.ValidatingAdmissionPolicyBindingList) []admissionv1.ValidatingAdmissionPolicyBinding {
		return l.Items
	})
	setDefaults(s, admissionchain.SetMutatingPolicyDefaults, func(l *admissionv1.MutatingAdmissionPolicyList) []admissionv1.MutatingAdmissionPolicy {
		return l.Items
	})
	setDefaults(s, admissionchain.SetMutatingBindingDefaults, func(l *admissionv1.MutatingAdmissionPolicyBindingList) []admissionv1.MutatingAdmissionPolicyBinding {
		return l.Items
	})
}
