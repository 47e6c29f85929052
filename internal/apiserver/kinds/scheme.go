package kinds

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/proxy"
)

// SubresourcesGroupVersion serves the verbs on machines that virtctl calls.
var SubresourcesGroupVersion = kubevirtv1.SubresourceStorageGroupVersion

// NewScheme registers the types of every served group twice: in their version, and
// as the group's hub version "__internal" that the installer of k8s.io/apiserver
// insists on. Both are the same Go types, so there is nothing to convert.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, coordinationv1.AddToScheme,
		networkingv1.AddToScheme, eventsv1.AddToScheme, kubevirtv1.AddToScheme,
		rbacv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme,
		admissionv1.AddToScheme, appsv1.AddToScheme, addScale, autoscalingv2.AddToScheme, batchv1.AddToScheme, certificatesv1.AddToScheme,
		nodev1.AddToScheme, policyv1.AddToScheme, resourcev1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	for _, gv := range servedVersions {
		hub := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		for kind := range s.KnownTypes(gv) {
			if isMetaKind[kind] || gv == eventsv1.SchemeGroupVersion {
				continue
			}
			obj, err := s.New(gv.WithKind(kind))
			utilruntime.Must(err)
			s.AddKnownTypeWithName(hub.WithKind(kind), obj)
		}
		utilruntime.Must(s.SetVersionPriority(gv))
	}
	metav1.AddToGroupVersion(s, SubresourcesGroupVersion)
	addDefaults(s)
	addRBACDefaults(s)
	addClusterDefaults(s)
	addAdmissionDefaults(s)
	addFieldLabels(s)
	addEventConversions(s)
	utilruntime.Must(proxy.AddConversions(s))
	return s
}

// addScale adds all that is served of autoscaling/v1: Scale, a form of other groups'
// objects. The group's own are v2's.
func addScale(s *runtime.Scheme) error {
	s.AddKnownTypes(autoscalingv1.SchemeGroupVersion, &autoscalingv1.Scale{})
	metav1.AddToGroupVersion(s, autoscalingv1.SchemeGroupVersion)
	return nil
}

var servedVersions = []schema.GroupVersion{
	corev1.SchemeGroupVersion,
	discoveryv1.SchemeGroupVersion,
	coordinationv1.SchemeGroupVersion,
	networkingv1.SchemeGroupVersion,
	eventsv1.SchemeGroupVersion,
	rbacv1.SchemeGroupVersion,
	authenticationv1.SchemeGroupVersion,
	authorizationv1.SchemeGroupVersion,
	admissionv1.SchemeGroupVersion,
	appsv1.SchemeGroupVersion,
	autoscalingv1.SchemeGroupVersion,
	autoscalingv2.SchemeGroupVersion,
	batchv1.SchemeGroupVersion,
	certificatesv1.SchemeGroupVersion,
	nodev1.SchemeGroupVersion,
	policyv1.SchemeGroupVersion,
	resourcev1.SchemeGroupVersion,
	schedulingv1.SchemeGroupVersion,
	storagev1.SchemeGroupVersion,
	kubevirtv1.GroupVersion,
}

// isMetaKind lists what metav1.AddToGroupVersion puts into every version.
var isMetaKind = func() map[string]bool {
	s := runtime.NewScheme()
	gv := schema.GroupVersion{Group: "x", Version: "v1"}
	metav1.AddToGroupVersion(s, gv)
	kinds := map[string]bool{}
	for kind := range s.KnownTypes(gv) {
		kinds[kind] = true
	}
	return kinds
}()

// StorageCodec gives the stored form of a resource: protobuf, the smallest and
// fastest, but JSON for KubeVirt's types, which have no other.
func StorageCodec(s *runtime.Scheme, codecs serializer.CodecFactory, gv schema.GroupVersion) runtime.Codec {
	var form runtime.Serializer = protobuf.NewSerializer(s, s)
	if gv.Group == kubevirtv1.GroupVersion.Group {
		form = json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{})
	}
	hub := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
	return codecs.CodecForVersions(form, form, gv, hub)
}
