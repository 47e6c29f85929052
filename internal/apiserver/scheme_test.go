package apiserver

import (
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/diff"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/kinds"
)

// storedKinds are the kinds with a resource of their own.
var storedKinds = []schema.GroupVersionKind{
	corev1.SchemeGroupVersion.WithKind("Service"), corev1.SchemeGroupVersion.WithKind("Endpoints"), corev1.SchemeGroupVersion.WithKind("Pod"),
	corev1.SchemeGroupVersion.WithKind("Node"), corev1.SchemeGroupVersion.WithKind("Namespace"), corev1.SchemeGroupVersion.WithKind("Event"),
	corev1.SchemeGroupVersion.WithKind("ConfigMap"), corev1.SchemeGroupVersion.WithKind("Secret"), corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
	{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"},
	{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"},
	{Group: "networking.k8s.io", Version: "v1", Kind: "IPAddress"},
	{Group: "networking.k8s.io", Version: "v1", Kind: "ServiceCIDR"},
	kubevirtv1.GroupVersion.WithKind("VirtualMachine"), kubevirtv1.GroupVersion.WithKind("VirtualMachineInstance"),
}

// Whatever an object holds, it is read back as it was stored, once its defaults are set.
func TestStoredFormLosesNothing(t *testing.T) {
	scheme := kinds.NewScheme()
	codecs := serializer.NewCodecFactory(scheme)
	seed := rand.Int64()
	fill := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs), source{rand.New(rand.NewPCG(uint64(seed), 0))}, codecs).MaxDepth(12).NumElements(1, 2)
	for _, gvk := range storedKinds {
		codec := kinds.StorageCodec(scheme, codecs, gvk.GroupVersion())
		for range 20 {
			first, err := scheme.New(gvk)
			if err != nil {
				t.Fatal(err)
			}
			fill.Fill(first)
			first = roundTrip(t, codec, first) // sets the defaults, and makes nil what is empty
			second := roundTrip(t, codec, first)
			if !equality.Semantic.DeepEqual(first, second) {
				t.Errorf("%s, seed %d: %s", gvk, seed, diff.Diff(first, second))
				break
			}
		}
	}
}

func roundTrip(t *testing.T, codec runtime.Codec, obj runtime.Object) runtime.Object {
	t.Helper()
	raw, err := runtime.Encode(codec, obj)
	if err != nil {
		t.Fatalf("encode a %T: %v", obj, err)
	}
	out, err := runtime.Decode(codec, raw)
	if err != nil {
		t.Fatalf("decode a %T: %v", obj, err)
	}
	return out
}

// source adapts math/rand/v2 to the library's older interface.
type source struct{ *rand.Rand }

func (s source) Int63() int64    { return s.Int64() }
func (s source) Seed(seed int64) {}

// The two views of an event hold the same.
func TestEventViewsLoseNothing(t *testing.T) {
	scheme := kinds.NewScheme()
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, source{rand.New(rand.NewPCG(rand.Uint64(), 0))}, serializer.NewCodecFactory(scheme))
	for range 50 {
		var event, back corev1.Event
		var view eventsv1.Event
		fill.Fill(&event)
		event.TypeMeta = view.TypeMeta
		if err := scheme.Convert(&event, &view, nil); err != nil {
			t.Fatal(err)
		}
		if err := scheme.Convert(&view, &back, nil); err != nil {
			t.Fatal(err)
		}
		if !equality.Semantic.DeepEqual(event, back) {
			t.Fatal(diff.Diff(event, back))
		}
	}
}
