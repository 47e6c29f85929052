// Package openapi holds the OpenAPI definitions of every type the API server
// serves, generated from the types' own comments: they are what `kubectl explain`
// prints and what strict validation and server-side apply decide by.
package openapi

//go:generate go tool openapi-gen --go-header-file /dev/null --output-dir . --output-pkg portico.dev/portico/internal/apiserver/openapi --output-file zz_generated.openapi.go --report-filename /dev/null k8s.io/api/core/v1 k8s.io/api/discovery/v1 k8s.io/api/coordination/v1 k8s.io/api/networking/v1 k8s.io/api/events/v1 k8s.io/api/rbac/v1 k8s.io/api/authentication/v1 k8s.io/api/authorization/v1 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/util/intstr kubevirt.io/api/core/v1 kubevirt.io/api/backup/v1alpha1 kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1 kubevirt.io/controller-lifecycle-operator-sdk/api
