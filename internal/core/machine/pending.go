package machine

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// A running instance is its own memory of the template it was made from: its
// labels are the template's labels then, and its spec is the template's spec
// then. So what waits is the difference between the instance and the one that
// InstanceFor would make now, and needs no record of its own.

// labelsPending tells which label keys of the template haven't reached the
// instance (VM-02); nil if none.
func labelsPending(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineCondition {
	if !runsOn(vmi) {
		return nil
	}
	template := vm.Spec.Template.ObjectMeta.Labels
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(template)) {
		if was, has := vmi.Labels[key]; !has || was != template[key] {
			keys = append(keys, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(vmi.Labels)) {
		if _, has := template[key]; !has {
			keys = append(keys, key+" (to be removed)")
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return &kubevirtv1.VirtualMachineCondition{
		Type: LabelsPending, Status: corev1.ConditionTrue, Reason: "TemplateLabelsChanged",
		Message: fmt.Sprintf("labels of the template wait for the next start: %s; to apply them run: portico vm restart %s", strings.Join(keys, ", "), vm.Name),
	}
}

// restartRequired tells which fields of the template's spec haven't reached the
// instance; nil if none.
func restartRequired(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineCondition {
	if !runsOn(vmi) {
		return nil
	}
	next := InstanceFor(vm)
	// Both sides with today's defaults: an instance of an older version of Portico
	// doesn't differ because a default was added.
	running := &kubevirtv1.VirtualMachineInstance{Spec: *vmi.Spec.DeepCopy()}
	SetInstanceDefaults(running)
	if equality.Semantic.DeepEqual(next.Spec, running.Spec) {
		return nil
	}
	fields := differences(nil, "template.spec", reflect.ValueOf(next.Spec), reflect.ValueOf(running.Spec))
	const most = 5
	if n := len(fields); n > most {
		fields = append(fields[:most], fmt.Sprintf("%d more", n-most))
	}
	return &kubevirtv1.VirtualMachineCondition{
		Type: kubevirtv1.VirtualMachineRestartRequired, Status: corev1.ConditionTrue, Reason: "RestartRequired",
		Message: fmt.Sprintf("changes of the template wait for the next start: %s; to apply them run: portico vm restart %s", strings.Join(fields, ", "), vm.Name),
	}
}

// runsOn says whether the instance goes on with what it has.
func runsOn(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return vmi != nil && vmi.DeletionTimestamp == nil && !vmi.IsFinal()
}

// differences lists the paths of the fields in which two values of a type differ.
func differences(found []string, path string, a, b reflect.Value) []string {
	if equality.Semantic.DeepEqual(a.Interface(), b.Interface()) {
		return found
	}
	if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
		a, b = a.Elem(), b.Elem()
	}
	if a.Kind() != reflect.Struct || isScalar(a) {
		return append(found, path)
	}
	for _, f := range jsonFields(a.Type()) {
		found = differences(found, path+"."+f.name, a.FieldByIndex(f.index), b.FieldByIndex(f.index))
	}
	return found
}
