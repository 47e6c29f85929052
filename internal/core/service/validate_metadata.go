package service

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/core/catalog"
)

func validateAnnotations(svc *corev1.Service) field.ErrorList {
	path := field.NewPath("metadata", "annotations")
	var errs field.ErrorList
	hints, hasHints := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, hasMode := svc.Annotations[corev1.AnnotationTopologyMode]
	if hasHints && hasMode && hints != mode {
		errs = append(errs, field.Invalid(path.Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	if keys := svc.Annotations[catalog.TopologyKeysAnnotation]; keys != "" {
		errs = append(errs, validateTopologyKeys(svc, strings.Split(keys, ","), path.Key(catalog.TopologyKeysAnnotation))...)
	}
	return errs
}

const (
	// anyTopology in a list of topology keys stands for every endpoint.
	anyTopology = "*"
	// maxTopologyKeys is the limit that the field topologyKeys had.
	maxTopologyKeys = 16
)

// validateTopologyKeys keeps the rules of the former field topologyKeys (API-03),
// which the API's door turns into an annotation.
func validateTopologyKeys(svc *corev1.Service, keys []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		errs = append(errs, field.Forbidden(path, "may not be specified when `externalTrafficPolicy=Local`"))
	}
	if len(keys) > maxTopologyKeys {
		errs = append(errs, field.TooMany(path, len(keys), maxTopologyKeys))
	}
	for i, key := range keys {
		switch {
		case key == "":
			errs = append(errs, field.Required(path.Index(i), ""))
		case key == anyTopology:
			if i != len(keys)-1 {
				errs = append(errs, field.Invalid(path.Index(i), key, `"*" must be the last value specified`))
			}
		case slices.Contains(keys[:i], key):
			errs = append(errs, field.Duplicate(path.Index(i), key))
		default:
			for _, msg := range validation.IsQualifiedName(key) {
				errs = append(errs, field.Invalid(path.Index(i), key, msg))
			}
		}
	}
	return errs
}
