package kinds

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// fieldLabels are the field selectors of each kind beside name and namespace, as
// upstream has them.
var fieldLabels = map[schema.GroupVersionKind][]string{
	corev1.SchemeGroupVersion.WithKind("Pod"): {
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
		"spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName",
	},
	corev1.SchemeGroupVersion.WithKind("Service"):   {"spec.clusterIP", "spec.type"},
	corev1.SchemeGroupVersion.WithKind("Node"):      {"spec.unschedulable"},
	corev1.SchemeGroupVersion.WithKind("Namespace"): {"status.phase", "name"},
	corev1.SchemeGroupVersion.WithKind("Secret"):    {"type"},
	corev1.SchemeGroupVersion.WithKind("Event"): {
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type",
	},
	batchv1.SchemeGroupVersion.WithKind("Job"):                              {"status.successful"},
	certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"): {"spec.signerName"},
	resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"):                 {"spec.nodeName", "spec.driver"},
	kubevirtv1.GroupVersion.WithKind("VirtualMachineInstance"):              {"status.phase", "status.nodeName"},
}

func addFieldLabels(s *runtime.Scheme) {
	for gvk, known := range fieldLabels {
		utilruntime.Must(s.AddFieldLabelConversionFunc(gvk, func(label, value string) (string, string, error) {
			switch {
			case label == "metadata.name" || label == "metadata.namespace" || slices.Contains(known, label):
				return label, value, nil
			case label == "spec.host" && gvk.Kind == "Pod": // the API's first name of spec.nodeName
				return "spec.nodeName", value, nil
			}
			return "", "", fmt.Errorf("field label not supported: %s; %s has metadata.name, metadata.namespace and %v", label, gvk.Kind, known)
		}))
	}
}
