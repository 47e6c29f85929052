package apiserver

import (
	"strings"

	"github.com/emicklei/go-restful/v3"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"portico.dev/portico/internal/apiserver/openapi"
	"portico.dev/portico/internal/kubevirt"
)

// openAPIConfigs describe the document in its two forms.
func openAPIConfigs() (*common.Config, *common.OpenAPIV3Config) {
	// Not the server's scheme: its hub versions would show in the document.
	namer := openapinamer.NewDefinitionNamer(kubevirt.Scheme, apiextensions.Scheme)
	name := func(goType string) (string, spec.Extensions) { return namer.GetDefinitionName(modelName(goType)) }
	v2 := genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	v2.Info.Title = "Portico"
	v2.GetDefinitionName = name
	v3 := genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	v3.Info.Title = "Portico"
	v3.GetDefinitionName = name
	v3.Definitions = openapi.GetOpenAPIDefinitions(func(goType string) spec.Ref {
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(modelName(goType)))
	})
	return v2, v3
}

// modelName is the name that schemes give to a type that doesn't name its model
// itself: io.kubevirt.api.core.v1.X for kubevirt.io/api/core/v1.X. Without it clients
// find no kind for such a definition, and `explain` nothing to explain.
func modelName(goType string) string {
	if strings.Contains(goType, "/") {
		return util.ToRESTFriendlyName(goType)
	}
	return goType
}

// installOpenAPI serves one document for the built-in and the custom resources. The
// library would make one for each server and leave merging to an aggregator that we
// don't have; so it is made here from both servers' routes, and the custom resource
// controllers, which add and remove their own parts, are given the same one.
func installOpenAPI(main *genericapiserver.GenericAPIServer, custom *apiextensions.CustomResourceDefinitions, config *genericapiserver.RecommendedConfig) {
	all := restful.NewContainer()
	seen := map[string]bool{}
	for _, server := range []*genericapiserver.GenericAPIServer{main, custom.GenericAPIServer} {
		for _, ws := range server.Handler.GoRestfulContainer.RegisteredWebServices() {
			if !seen[ws.RootPath()] { // both have /version and the like
				seen[ws.RootPath()] = true
				all.Add(ws)
			}
		}
	}
	mux := main.Handler.NonGoRestfulMux
	main.OpenAPIVersionedService, main.StaticOpenAPISpec = routes.OpenAPI{Config: config.OpenAPIConfig}.InstallV2(all, mux)
	main.OpenAPIV3VersionedService = routes.OpenAPI{V3Config: config.OpenAPIV3Config}.InstallV3(all, mux)
	custom.GenericAPIServer.OpenAPIVersionedService = main.OpenAPIVersionedService
	custom.GenericAPIServer.StaticOpenAPISpec = main.StaticOpenAPISpec
	custom.GenericAPIServer.OpenAPIV3VersionedService = main.OpenAPIV3VersionedService
}
