package apiserver

import (
	"strconv"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"

	"portico.dev/portico/internal/apiserver/admissionchain"
)

// admissionPrefixes are where the store has what awakes admission by webhooks and
// policies: the folders of this file's kinds begin with these.
var admissionPrefixes = []string{"/mutating", "/validating"}

// addAdmission serves webhook configurations and admission policies.
func addAdmission(s storages, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
	for _, build := range []buildFunc{
		plain(mutatingWebhookKind()), plain(validatingWebhookKind()), plain(validatingPolicyKind()),
		plain(ruled(stored[admissionv1.ValidatingAdmissionPolicyBinding, admissionv1.ValidatingAdmissionPolicyBindingList](
			admissionv1.SchemeGroupVersion, "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", inCluster),
			admissionchain.ValidateBinding,
			func(b *admissionv1.ValidatingAdmissionPolicyBinding) any { return b.Spec }).
			printed(func(b *admissionv1.ValidatingAdmissionPolicyBinding) []any {
				return bindingCells(b.Spec.PolicyName, b.Spec.ParamRef)
			}, policyBindingColumns()...)),
		plain(mutatingPolicyKind()),
		plain(ruled(stored[admissionv1.MutatingAdmissionPolicyBinding, admissionv1.MutatingAdmissionPolicyBindingList](
			admissionv1.SchemeGroupVersion, "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", inCluster),
			admissionchain.ValidateMutatingBinding,
			func(b *admissionv1.MutatingAdmissionPolicyBinding) any { return b.Spec }).
			printed(func(b *admissionv1.MutatingAdmissionPolicyBinding) []any {
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
func ruled[T runtime.Object](k kind[T], validate func(T) field.ErrorList, matters func(T) any) kind[T] {
	k.rules.validate = validate
	return k.fixed(func(obj, old T) field.ErrorList {
		if equality.Semantic.DeepEqual(matters(obj), matters(old)) {
			return nil
		}
		return validate(obj)
	})
}

func mutatingWebhookKind() kind[*admissionv1.MutatingWebhookConfiguration] {
	k := ruled(stored[admissionv1.MutatingWebhookConfiguration, admissionv1.MutatingWebhookConfigurationList](
		admissionv1.SchemeGroupVersion, "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", inCluster),
		admissionchain.ValidateMutating, func(c *admissionv1.MutatingWebhookConfiguration) any { return c.Webhooks })
	k.rules.prepareCreate = func(c *admissionv1.MutatingWebhookConfiguration) { c.Generation = 1 }
	k.rules.prepareUpdate = func(c, old *admissionv1.MutatingWebhookConfiguration) {
		c.Generation = generation(old.Generation, c.Webhooks, old.Webhooks)
	}
	return k.printed(func(c *admissionv1.MutatingWebhookConfiguration) []any { return []any{strconv.Itoa(len(c.Webhooks))} },
		column("Webhooks", "How many webhooks it has."))
}

func validatingWebhookKind() kind[*admissionv1.ValidatingWebhookConfiguration] {
	k := ruled(stored[admissionv1.ValidatingWebhookConfiguration, admissionv1.ValidatingWebhookConfigurationList](
		admissionv1.SchemeGroupVersion, "validatingwebhookconfigurations", "validatingwebhookconfiguration", inCluster),
		admissionchain.ValidateValidating, func(c *admissionv1.ValidatingWebhookConfiguration) any { return c.Webhooks })
	k.rules.prepareCreate = func(c *admissionv1.ValidatingWebhookConfiguration) { c.Generation = 1 }
	k.rules.prepareUpdate = func(c, old *admissionv1.ValidatingWebhookConfiguration) {
		c.Generation = generation(old.Generation, c.Webhooks, old.Webhooks)
	}
	return k.printed(func(c *admissionv1.ValidatingWebhookConfiguration) []any { return []any{strconv.Itoa(len(c.Webhooks))} },
		column("Webhooks", "How many webhooks it has."))
}

// generation counts the changes of webhooks, whose configurations have no spec.
func generation[T any](n int64, now, old []T) int64 {
	if equality.Semantic.DeepEqual(now, old) {
		return n
	}
	return n + 1
}

func validatingPolicyKind() kind[*admissionv1.ValidatingAdmissionPolicy] {
	return ruled(stored[admissionv1.ValidatingAdmissionPolicy, admissionv1.ValidatingAdmissionPolicyList](
		admissionv1.SchemeGroupVersion, "validatingadmissionpolicies", "validatingadmissionpolicy", inCluster),
		admissionchain.ValidatePolicy, func(p *admissionv1.ValidatingAdmissionPolicy) any { return p.Spec }).
		printed(func(p *admissionv1.ValidatingAdmissionPolicy) []any {
			return []any{strconv.Itoa(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind)}
		}, policyColumns("Validations")...)
}

func mutatingPolicyKind() kind[*admissionv1.MutatingAdmissionPolicy] {
	return ruled(stored[admissionv1.MutatingAdmissionPolicy, admissionv1.MutatingAdmissionPolicyList](
		admissionv1.SchemeGroupVersion, "mutatingadmissionpolicies", "mutatingadmissionpolicy", inCluster),
		admissionchain.ValidateMutatingPolicy, func(p *admissionv1.MutatingAdmissionPolicy) any { return p.Spec }).
		printed(func(p *admissionv1.MutatingAdmissionPolicy) []any {
			return []any{strconv.Itoa(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind)}
		}, policyColumns("Mutations")...)
}

func policyColumns(what string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{column(what, "How many it has."), column("ParamKind", "The kind of its parameters.")}
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func policyBindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{column("PolicyName", "The policy that it puts in force."), column("ParamRef", "The policy's parameters.")}
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
