package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"portico.dev/portico/internal/apiserver/openapi"
	"portico.dev/portico/internal/kubevirt"
)

// openAPIConfigs describe the document in its two forms. The second has the definitions
// of all types, which the registries' models are made of; installOpenAPI lets go of them.
func openAPIConfigs() (*common.Config, *common.OpenAPIV3Config) {
	// Not the server's scheme: its hub versions would show in the document.
	namer := openapinamer.NewDefinitionNamer(kubevirt.Scheme(), apiextensions.Scheme)
	name := func(goType string) (string, spec.Extensions) { return namer.GetDefinitionName(modelName(goType)) }
	v2 := genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	v2.Info.Title = "Portico"
	v2.GetDefinitionName = name
	none := func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return nil }
	v3 := genericapiserver.DefaultOpenAPIV3Config(none, namer)
	v3.Info.Title = "Portico"
	v3.GetDefinitionName = name
	v3.GetDefinitions, v3.Definitions = definitions, definitionsV3()
	return v2, v3
}

func definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	return withLegacyFields(openapi.GetOpenAPIDefinitions)(ref)
}

func definitionsV3() map[string]common.OpenAPIDefinition {
	return definitions(func(goType string) spec.Ref {
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(modelName(goType)))
	})
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
//
// The built-in part is made when somebody first asks for it: it takes a third of the
// start's time and of an idle server's memory, and most servers are never asked.
func installOpenAPI(main *genericapiserver.GenericAPIServer, custom *apiextensions.CustomResourceDefinitions, config *genericapiserver.RecommendedConfig) error {
	config.OpenAPIV3Config.Definitions = nil
	services := webServices(main, custom.GenericAPIServer)

	// Where the custom resources' controller finds the built-in part when it merges its
	// own, which it does within a request.
	static := &spec.Swagger{}
	v2 := handler.NewOpenAPIService(static)
	v2.RegisterOpenAPIVersionedService("/openapi/v2", preparedMux{main.Handler.NonGoRestfulMux, untilDone(func() error {
		_, built := routes.OpenAPI{Config: config.OpenAPIConfig}.InstallV2(container(services...), scratchMux())
		*static = *built
		return nil
	})})
	v3 := handler3.NewOpenAPIService()
	documents := groupDocuments{service: v3, config: *config.OpenAPIV3Config, empty: map[*restful.WebService]*spec3.OpenAPI{}}
	for _, ws := range services {
		documents.empty[ws] = &spec3.OpenAPI{}
		v3.UpdateGroupVersion(strings.TrimPrefix(ws.RootPath(), "/"), documents.empty[ws])
	}
	if err := v3.RegisterOpenAPIV3VersionedService("/openapi/v3", preparedMux{main.Handler.NonGoRestfulMux, untilDone(documents.serialise)}); err != nil {
		return fmt.Errorf("serve the OpenAPI documents: %w", err)
	}
	for _, server := range []*genericapiserver.GenericAPIServer{main, custom.GenericAPIServer} {
		server.OpenAPIVersionedService, server.StaticOpenAPISpec, server.OpenAPIV3VersionedService = v2, static, v3
	}
	return nil
}

// webServices are those of all servers, each path's once: both have /version and the like.
func webServices(servers ...*genericapiserver.GenericAPIServer) []*restful.WebService {
	var all []*restful.WebService
	seen := map[string]bool{}
	for _, server := range servers {
		for _, ws := range server.Handler.GoRestfulContainer.RegisteredWebServices() {
			if !seen[ws.RootPath()] {
				seen[ws.RootPath()] = true
				all = append(all, ws)
			}
		}
	}
	return all
}

// groupDocuments fills the built-in documents of OpenAPI v3, one for each web service.
type groupDocuments struct {
	service *handler3.OpenAPIService
	config  common.OpenAPIV3Config
	// empty are what service holds, without those that were filled. It reads each once,
	// and keeps the JSON.
	empty map[*restful.WebService]*spec3.OpenAPI
}

// serialise makes each document, has the service read it, and empties it again: it is
// several times as large as the JSON that is served.
func (d *groupDocuments) serialise() error {
	config := d.config
	config.Definitions = definitionsV3()
	for ws, document := range d.empty {
		// The library does more after this hook, but to what s points at.
		config.PostProcessSpec = func(s *spec3.OpenAPI) (*spec3.OpenAPI, error) {
			*document = *s
			return s, nil
		}
		routes.OpenAPI{V3Config: &config}.InstallV3(container(ws), scratchMux())
		if document.Paths == nil {
			return fmt.Errorf("make the OpenAPI document of %s", ws.RootPath())
		}
		read := answer{header: http.Header{}, code: http.StatusOK}
		d.service.HandleGroupVersion(&read, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/openapi/v3" + ws.RootPath()}})
		if read.code != http.StatusOK || read.body.Len() == 0 {
			return fmt.Errorf("serialise the OpenAPI document of %s: status %d", ws.RootPath(), read.code)
		}
		*document = spec3.OpenAPI{}
		delete(d.empty, ws)
	}
	return nil
}

func container(services ...*restful.WebService) *restful.Container {
	c := restful.NewContainer()
	for _, ws := range services {
		c.Add(ws)
	}
	return c
}

// scratchMux takes handlers that nobody calls.
func scratchMux() *mux.PathRecorderMux { return mux.NewPathRecorderMux("openapi") }

// preparedMux registers handlers before each of whose calls something is prepared.
type preparedMux struct {
	*mux.PathRecorderMux
	prepare func() error
}

func (p preparedMux) Handle(path string, next http.Handler) {
	p.PathRecorderMux.Handle(path, p.prepared(next))
}

func (p preparedMux) HandlePrefix(path string, next http.Handler) {
	p.PathRecorderMux.HandlePrefix(path, p.prepared(next))
}

func (p preparedMux) prepared(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := p.prepare(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// untilDone runs f until it once succeeds, one call at a time.
func untilDone(f func() error) func() error {
	var mu sync.Mutex
	done := false // guarded by mu
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return nil
		}
		err := f()
		done = err == nil
		return err
	}
}
