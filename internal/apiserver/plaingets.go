package apiserver

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverfilters "k8s.io/apiserver/pkg/server/filters"

	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/apiserver/registry"
)

// plainGets answers the gets that ask for nothing special: one object as it is now, by its
// path alone. Who asks, and whether it may, is decided as for any other request; but
// there is no goroutine and no timer for it, no router, no tracing and, above all, no read
// of the store where the watch cache is known to hold what the store does. What is out of
// the ordinary is left to the whole chain of handlers, which begins anew: strangers, names
// that aren't there, a cache that is behind.
type plainGets struct {
	newest func(ctx context.Context, key string, into runtime.Object) bool
	kinds  map[schema.GroupVersionResource]*plainKind // complete before the first request
	// limit is how many are answered at once; answers that clients don't read end there.
	limit    int64
	patience time.Duration // with a client that doesn't read its answer
	busy     atomic.Int64
	answered atomic.Uint64
}

type plainKind struct {
	store       *genericregistry.Store
	namespaced  bool
	root        string // of the group's version: /api/v1/
	serializers runtime.NegotiatedSerializer
}

// take notes the kinds of a group's version whose gets are those of the library's store.
// Endpoints are none of them: each answer about them has a warning.
func (p *plainGets) take(gv schema.GroupVersion, s registry.Set, serializers runtime.NegotiatedSerializer) {
	for resource, storage := range s[gv] {
		var store *genericregistry.Store
		switch storage := storage.(type) {
		case *registry.Storage:
			store = storage.Store
		case *kinds.ServiceStorage:
			store = storage.Store
		}
		gvr := gv.WithResource(resource)
		if store == nil || resource == "endpoints" || resource == "events" || uncached(gvr.GroupResource()) {
			continue
		}
		root := "/apis/" + gv.String() + "/"
		if gv.Group == "" {
			root = "/api/" + gv.Version + "/"
		}
		if p.kinds == nil {
			p.kinds = map[schema.GroupVersionResource]*plainKind{}
		}
		p.kinds[gvr] = &plainKind{store, store.CreateStrategy.NamespaceScoped(), root, serializers}
	}
}

// plainGet is one request on its way.
type plainGet struct {
	req           *http.Request // as it came
	authorization []string      // which is taken off at the authentication
	info          *apirequest.RequestInfo
	kind          *plainKind
	next          http.Handler
	began         time.Time
}

type plainGetKey struct{}

// Fields that the chain sets as well.
const auditField, cacheField = "Audit-Id", "Cache-Control"

// before puts the layer before the whole chain.
func (p *plainGets) before(next http.Handler, c *genericapiserver.Config) http.Handler {
	var handler http.Handler = http.HandlerFunc(p.answer)
	handler = genericfilters.WithAuthorization(handler, c.Authorization.Authorizer, c.Serializer)
	if c.AuditPolicyRuleEvaluator != nil {
		handler = leaveAudited(handler, c.AuditPolicyRuleEvaluator)
	}
	handler = genericfilters.WithAuthentication(handler, c.Authentication.Authenticator, http.HandlerFunc(leavePlainGet), c.Authentication.APIAudiences, nil)
	handler = serverfilters.WithPanicRecovery(handler, c.RequestInfoResolver)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		get := p.asked(req, c)
		if get == nil || c.NonLongRunningRequestWaitGroup.Add(1) != nil {
			next.ServeHTTP(w, req)
			return
		}
		defer c.NonLongRunningRequestWaitGroup.Done()
		defer p.busy.Add(-1)
		if p.busy.Add(1) > p.limit {
			next.ServeHTTP(w, req)
			return
		}
		get.next = next
		header := w.Header()
		header[auditField] = []string{uuid.NewString()}
		header[cacheField] = []string{"no-cache, private"}
		ctx := apirequest.WithLatencyTrackers(apirequest.WithRequestInfo(req.Context(), get.info))
		handler.ServeHTTP(w, req.WithContext(context.WithValue(ctx, plainGetKey{}, get)))
	})
}

// asked is what req asks for, if it is plain.
func (p *plainGets) asked(req *http.Request, c *genericapiserver.Config) *plainGet {
	url := req.URL
	// HTTP/1 has one deadline for all answers of a connection: see answer.
	if req.Method != http.MethodGet || req.ProtoMajor != 2 || url.RawQuery != "" || url.RawPath != "" || !plainHeader(req.Header) {
		return nil
	}
	info, err := c.RequestInfoResolver.NewRequestInfo(req)
	if err != nil || !info.IsResourceRequest || info.Verb != "get" || info.Name == "" || info.Subresource != "" {
		return nil
	}
	kind := p.kinds[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}]
	if kind == nil {
		return nil
	}
	scope := ""
	if kind.namespaced {
		scope = "namespaces/" + info.Namespace + "/"
	}
	// Other spellings of a path are for the router to understand or to refuse.
	if kind.namespaced != (info.Namespace != "") || url.Path != kind.root+scope+info.Resource+"/"+info.Name {
		return nil
	}
	return &plainGet{req: req, authorization: req.Header["Authorization"], info: info, kind: kind, began: time.Now()}
}

// plainHeader says whether no field of it changes what is answered. Forms of an answer
// other than the object itself, such as tables, are asked for by parameters of Accept.
func plainHeader(header http.Header) bool {
	for name := range header {
		if name == "Upgrade" || name == auditField || strings.HasPrefix(name, "Impersonate-") {
			return false
		}
	}
	accept := header["Accept"]
	return len(accept) == 0 || len(accept) == 1 && !strings.Contains(accept[0], ";")
}

// leavePlainGet lets the whole chain answer.
func leavePlainGet(w http.ResponseWriter, req *http.Request) {
	get := req.Context().Value(plainGetKey{}).(*plainGet)
	delete(w.Header(), auditField)
	delete(w.Header(), cacheField)
	if get.authorization != nil {
		get.req.Header["Authorization"] = get.authorization
	}
	get.next.ServeHTTP(w, get.req)
}

// leaveAudited leaves those that the policy wants to be noted.
func leaveAudited(next http.Handler, policy audit.PolicyRuleEvaluator) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		attributes, err := genericfilters.GetAuthorizerAttributes(req.Context())
		if err != nil || policy.EvaluatePolicyRule(attributes).Level != auditinternal.LevelNone {
			leavePlainGet(w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// answer gives the object to a client that may have it.
func (p *plainGets) answer(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	get := ctx.Value(plainGetKey{}).(*plainGet)
	info, store := get.info, get.kind.store
	if info.Namespace != "" {
		ctx = apirequest.WithNamespace(ctx, info.Namespace)
	}
	key, err := store.KeyFunc(ctx, info.Name)
	if err != nil {
		leavePlainGet(w, req)
		return
	}
	obj := store.New()
	if !p.newest(ctx, key, obj) {
		leavePlainGet(w, req)
		return
	}
	p.answered.Add(1)
	// It is not known to requests of this process, which end with their reader.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(p.patience))
	counted := &metrics.ResponseWriterDelegator{ResponseWriter: w}
	gv := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	responsewriters.WriteObjectNegotiated(get.kind.serializers, negotiation.DefaultEndpointRestrictions, gv, counted, req, http.StatusOK, obj, false)
	metrics.MonitorRequest(req, "GET", info.APIGroup, info.APIVersion, info.Resource, "", "resource", metrics.APIServerComponent,
		false, "", counted.Status(), counted.ContentLength(), time.Since(get.began))
}

// PlainGets is how many gets were answered from watch caches that were known to be fresh.
func (s *Server) PlainGets() uint64 { return s.gets.answered.Load() }
