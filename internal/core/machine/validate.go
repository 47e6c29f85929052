package machine

import (
	"maps"
	"net"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Validate says what is wrong with a new VirtualMachine that has its defaults.
func Validate(vm *kubevirtv1.VirtualMachine) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&vm.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validateClaims(&vm.ObjectMeta)...)
	return append(errs, validateMachineSpec(&vm.Spec, field.NewPath("spec"))...)
}

// ValidateUpdate says what is wrong with an update of a VirtualMachine. All of
// its spec may change; the template reaches the guest at the next start.
func ValidateUpdate(vm, old *kubevirtv1.VirtualMachine) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&vm.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, validateClaimsUpdate(&vm.ObjectMeta, &old.ObjectMeta)...)
	return append(errs, validateMachineSpec(&vm.Spec, field.NewPath("spec"))...)
}

// ValidateInstance says what is wrong with a new instance that has its defaults.
func ValidateInstance(vmi *kubevirtv1.VirtualMachineInstance) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&vmi.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validateClaims(&vmi.ObjectMeta)...)
	return append(errs, validateInstanceSpec(&vmi.Spec, field.NewPath("spec"))...)
}

// ValidateInstanceUpdate says what is wrong with an update of an instance. A
// running guest can't follow a changed spec, so only the grace period may
// change: a forced stop shortens it.
func ValidateInstanceUpdate(vmi, old *kubevirtv1.VirtualMachineInstance) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&vmi.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, validateClaimsUpdate(&vmi.ObjectMeta, &old.ObjectMeta)...)
	path := field.NewPath("spec")
	was := old.Spec.DeepCopy()
	was.TerminationGracePeriodSeconds = vmi.Spec.TerminationGracePeriodSeconds
	if !equality.Semantic.DeepEqual(was, &vmi.Spec) {
		errs = append(errs, field.Forbidden(path, "a running instance can't change; change the VirtualMachine's template and restart it"))
	}
	return append(errs, validateGrace(vmi.Spec.TerminationGracePeriodSeconds, path.Child("terminationGracePeriodSeconds"))...)
}

// Warnings says what a VirtualMachine sets without effect, one sentence for each
// field, for Warning headers.
func Warnings(vm *kubevirtv1.VirtualMachine) []string {
	path := field.NewPath("spec")
	_, warnings := split(newSupport(MachineRules()).check(path, vm.Spec))
	if vm.Spec.Template == nil {
		return warnings
	}
	template := path.Child("template")
	for _, key := range slices.Sorted(maps.Keys(vm.Spec.Template.ObjectMeta.Labels)) {
		if slices.Contains(podLabels, key) {
			warnings = append(warnings, template.Child("metadata", "labels").Key(key).String()+": the pod carries its own value of this label")
		}
	}
	return append(warnings, specWarnings(&vm.Spec.Template.Spec, template.Child("spec"))...)
}

// InstanceWarnings does the same for an instance.
func InstanceWarnings(vmi *kubevirtv1.VirtualMachineInstance) []string {
	return specWarnings(&vmi.Spec, field.NewPath("spec"))
}

func specWarnings(spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) []string {
	_, warnings := split(newSupport(InstanceRules()).check(path, *spec))
	return warnings
}

func validateMachineSpec(spec *kubevirtv1.VirtualMachineSpec, path *field.Path) field.ErrorList {
	errs := validateStrategy(spec, path)
	unsupported, _ := split(newSupport(MachineRules()).check(path, *spec))
	errs = append(errs, unsupported...)
	template := path.Child("template")
	if spec.Template == nil {
		return append(errs, field.Required(template, "it describes the machine"))
	}
	meta := template.Child("metadata")
	errs = append(errs, metav1validation.ValidateLabels(spec.Template.ObjectMeta.Labels, meta.Child("labels"))...)
	errs = append(errs, apivalidation.ValidateAnnotations(spec.Template.ObjectMeta.Annotations, meta.Child("annotations"))...)
	errs = append(errs, validateServiceLinks(&spec.Template.ObjectMeta, meta.Child("annotations"))...)
	return append(errs, validateInstanceSpec(&spec.Template.Spec, template.Child("spec"))...)
}

// validateStrategy: exactly one of running and runStrategy (VM-01).
func validateStrategy(spec *kubevirtv1.VirtualMachineSpec, path *field.Path) field.ErrorList {
	strategy := path.Child("runStrategy")
	switch {
	case spec.Running != nil && spec.RunStrategy != nil:
		return field.ErrorList{field.Forbidden(strategy, "running and runStrategy are mutually exclusive; keep runStrategy")}
	case spec.Running != nil:
		return nil
	case spec.RunStrategy == nil:
		return field.ErrorList{field.Required(strategy, "one of running and runStrategy must be set; runStrategy: Always starts the machine, Halted doesn't")}
	case *spec.RunStrategy == kubevirtv1.RunStrategyWaitAsReceiver:
		return field.ErrorList{field.Forbidden(strategy, "WaitAsReceiver needs live migration, which isn't built yet; use Halted")}
	case !slices.Contains(strategies, *spec.RunStrategy):
		return field.ErrorList{field.NotSupported(strategy, *spec.RunStrategy, strategies)}
	}
	return nil
}

func validateClaims(meta *metav1.ObjectMeta) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata", "annotations")
	if _, err := Addresses(meta); err != nil {
		errs = append(errs, field.Invalid(path.Key(AddressesAnnotation), meta.Annotations[AddressesAnnotation], err.Error()))
	}
	if mac, ok := meta.Annotations[MACAnnotation]; ok {
		errs = append(errs, validateMAC(mac, path.Key(MACAnnotation))...)
	}
	return append(errs, validateServiceLinks(meta, path)...)
}

func validateServiceLinks(meta *metav1.ObjectMeta, annotations *field.Path) field.ErrorList {
	if _, err := ServiceLinks(meta); err != nil {
		return field.ErrorList{field.NotSupported(annotations.Key(ServiceLinksAnnotation), meta.Annotations[ServiceLinksAnnotation], []string{"true", "false"})}
	}
	return nil
}

// validateClaimsUpdate: addresses belong to the object for its whole life,
// because guests and DNS answers remember them.
func validateClaimsUpdate(meta, old *metav1.ObjectMeta) field.ErrorList {
	var errs field.ErrorList
	for _, key := range []string{AddressesAnnotation, MACAnnotation} {
		if was, had := old.Annotations[key]; had && meta.Annotations[key] != was {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(key), meta.Annotations[key],
				"it can't change from "+was+"; delete the object and create it anew"))
		}
	}
	return errs
}

func validateMAC(s string, path *field.Path) field.ErrorList {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6:
		return field.ErrorList{field.Invalid(path, s, "must be six pairs of hexadecimal digits, such as 02:00:00:00:00:01")}
	case mac[0]&1 == 1: // IEEE 802: the group bit
		return field.ErrorList{field.Invalid(path, s, "is a multicast address; the second digit must be even")}
	case slices.Equal(mac, make(net.HardwareAddr, 6)):
		return field.ErrorList{field.Invalid(path, s, "is all zeros")}
	}
	return nil
}
