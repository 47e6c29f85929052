package etcd

import (
	"fmt"
	"reflect"
	"testing"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// stored is a Service as a decoder makes it: nothing of it belongs to another object.
func stored(n int, at time.Time, fields string) *corev1.Service {
	when := metav1.NewTime(at)
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprint("svc-", n), Namespace: string([]byte("default")), Labels: map[string]string{"app": "web"},
		ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "kubectl", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &when, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)},
		},
	}}
}

func TestPartsShareWhatIsAlike(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name                    string
		other                   *corev1.Service
		labels, managed, fields bool // are shared with the first
	}{
		{"all alike", stored(2, now, "{a}"), true, true, true},
		{"a second later", stored(2, now.Add(time.Second), "{a}"), true, false, true},
		{"other fields", stored(2, now, "{b}"), true, false, false},
		{"other labels", func() *corev1.Service {
			s := stored(2, now, "{a}")
			s.Labels = map[string]string{"app": "db"}
			return s
		}(), false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p parts
			first, want := stored(1, now, "{a}"), c.other.DeepCopy()
			p.share(first)
			p.share(c.other)
			if !apiequality.Semantic.DeepEqual(c.other, want) {
				t.Errorf("sharing changed the object to %+v", c.other)
			}
			if got := same(first.Labels, c.other.Labels); got != c.labels {
				t.Errorf("labels shared: %v", got)
			}
			if got := &first.ManagedFields[0] == &c.other.ManagedFields[0]; got != c.managed {
				t.Errorf("managed fields shared: %v", got)
			}
			if got := first.ManagedFields[0].FieldsV1 == c.other.ManagedFields[0].FieldsV1; got != c.fields {
				t.Errorf("their sets shared: %v", got)
			}
			if unsafe.StringData(first.Namespace) != unsafe.StringData(c.other.Namespace) {
				t.Error("the namespace isn't shared")
			}
		})
	}
}

func same(a, b map[string]string) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// What differs must not look alike, wherever names and values end.
func TestPartsTellTextsApart(t *testing.T) {
	var p parts
	for _, labels := range []map[string]string{
		{"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "b", "": "c"}, {"a": "1:b"}, {"a1": "b"},
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: labels}}
		p.share(s)
		if !same(s.Labels, labels) {
			t.Errorf("%v became %v", labels, s.Labels)
		}
	}
	entry := metav1.ManagedFieldsEntry{Manager: "m"}
	zero := metav1.Time{}
	for _, e := range []metav1.ManagedFieldsEntry{entry, {Operation: "m"}, {Manager: "m", Time: &zero}, {Manager: "m", FieldsV1: &metav1.FieldsV1{}}} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{e}}}
		p.share(s)
		if !reflect.DeepEqual(s.ManagedFields[0], e) {
			t.Errorf("%+v became %+v", e, s.ManagedFields[0])
		}
	}
}

func TestPartsRememberFewAndLeaveMapsAlone(t *testing.T) {
	var p parts
	for n := range 10 * partsKept {
		s := stored(n, time.Unix(int64(n), 0), fmt.Sprint(n))
		s.Labels["n"] = fmt.Sprint(n)
		p.share(s)
	}
	for name, kept := range map[string]int{
		"labels": len(p.labels.young) + len(p.labels.old), "managed fields": len(p.managed.young) + len(p.managed.old),
		"sets": len(p.fieldSet.young) + len(p.fieldSet.old), "texts": len(p.texts.young) + len(p.texts.old),
	} {
		if kept > 2*partsKept {
			t.Errorf("%d %s are kept", kept, name)
		}
	}
	custom := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": "default"}}}
	want := custom.DeepCopy()
	p.share(custom)
	if !reflect.DeepEqual(custom, want) {
		t.Errorf("a custom resource became %v", custom)
	}
}
