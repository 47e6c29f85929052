package apiserver

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"portico.dev/portico/internal/core/catalog"
)

// withLegacyFields adds to the definitions the fields that exist at the door only
// (API-03): `kubectl explain` tells what became of them, and clients that check a
// manifest themselves, or make a patch of it, know their types.
func withLegacyFields(get common.GetOpenAPIDefinitions) common.GetOpenAPIDefinitions {
	return func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		definitions := get(ref)
		properties := definitions[corev1.ServiceSpec{}.OpenAPIModelName()].Schema.Properties
		properties[legacyFamily] = *spec.StringProperty().WithDescription(
			"Legacy field of Kubernetes 1.16 to 1.19: the one IP family of the Service. " +
				"It is read as ipFamilies with this family alone and ipFamilyPolicy SingleStack, and never returned. Use these fields instead.")
		keys := spec.ArrayProperty(spec.StringProperty()).WithDescription(
			"Legacy field of Kubernetes 1.17 to 1.21: keys of node labels, in the order of preference; endpoints on nodes with the same value as the client's are used, " +
				"and \"*\", which may stand last, is any endpoint. At most 16 keys; not together with externalTrafficPolicy Local. " +
				"It is read as the annotation " + catalog.TopologyKeysAnnotation + ", the keys separated by commas, and never returned. Use the annotation or trafficDistribution instead.")
		keys.AddExtension("x-kubernetes-list-type", "atomic")
		properties[legacyKeys] = *keys
		return definitions
	}
}
