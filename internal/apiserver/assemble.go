package apiserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	discoveryendpoint "k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/features"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/apiserver/admissionchain"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/apiserver/noderestriction"
	"portico.dev/portico/internal/apiserver/ownership"
	"portico.dev/portico/internal/apiserver/signers"
)

// kubernetesVersion is the version of the API that is served: that of the k8s.io
// modules in go.mod.
const kubernetesVersion = "1.37.2"

// maxBodyBytes bounds a request's body, as upstream does: etcd takes 1.5 MB of
// protobuf, which may be twice as much JSON.
const maxBodyBytes = 3 << 20

// minRequestTimeout is how long a watch lasts at least, upstream's default.
const minRequestTimeout = 30 * time.Minute

// watchDrain is how long watches may take to end at a shutdown. Without it the server
// waits for clients to end them, a whole minute.
const watchDrain = 2 * time.Second

// assemble builds the servers from the end of their chain: custom resources, then
// the built-in ones. What neither knows is answered 404.
func (s *Server) assemble(ctx context.Context, rc registryConfig, check func(*http.Request) error) error {
	if err := slimWatchCaches(); err != nil {
		return err
	}
	scheme := kinds.NewScheme()
	codecs := serializer.NewCodecFactory(scheme)
	options := s.storeOptions(scheme, codecs, rc)
	sec, err := newSecurity(s.config.SigningKey, s.config.ClusterDomain)
	if err != nil {
		return err
	}
	rc.security = sec
	config, err := s.genericConfig(scheme, codecs, sec, check)
	if err != nil {
		return err
	}
	config.RESTOptionsGetter, s.held, s.gets.newest = options, options.Held, options.Newest
	s.watches.gets, s.watches.ctx = &s.gets, ctx
	kube, err := clientset.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("make the API server's own client: %w", err)
	}
	config.SharedInformerFactory = informers.NewSharedInformerFactory(kube, 0)
	lifecycle, err := namespaceLifecycle(kube, config.SharedInformerFactory)
	if err != nil {
		return err
	}
	rc.resolver = &admissionchain.Resolver{}
	rc.owners = &ownership.Plugin{Decides: sec.decides}
	if err := s.useAdmission(ctx, config, kube, rc, lifecycle, noderestriction.New(clock.RealClock{}), &signers.Plugin{Decides: sec.decides}, rc.owners); err != nil {
		return err
	}
	followed, err := sec.rules.Follow(config.SharedInformerFactory)
	if err != nil {
		return err
	}
	custom, err := newCustomResources(*config, s.config.Store)
	if err != nil {
		return err
	}
	main, err := config.Complete().New("portico", custom.GenericAPIServer)
	if err != nil {
		return fmt.Errorf("build the API server: %w", err)
	}
	rc.gets = &s.gets
	if err := install(main, config, scheme, codecs, options, rc); err != nil {
		return err
	}
	serveSnapshots(main, codecs, s.config.Snapshot, s.config.Logger)
	main.ShutdownTimeout = shutdownTimeout
	if err := installOpenAPI(main, custom, config); err != nil {
		return err
	}
	if err := s.addHooks(main, config, kube, sec, followed); err != nil {
		return err
	}
	s.ledger = claims.NewLedger(rc.Claims, options.Folder)
	s.generic, s.serving = main, config.SecureServing
	return nil
}

// slimWatchCaches leaves out of the library's watch caches what only costs memory here. Each
// change would keep its own copy of the way to it in the cache's tree, for lists that are
// read in chunks: a sixth of the memory of many Services. Without, later chunks are read from
// the store, as before Kubernetes 1.34. And each key's size would be kept for priority and
// fairness, which isn't in use.
func slimWatchCaches() error {
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		string(features.ListFromCacheSnapshot): false, string(features.SizeBasedListCostEstimate): false,
	}); err != nil {
		return fmt.Errorf("set up the watch caches: %w", err)
	}
	return nil
}

// storeOptions says where and how each resource is stored, and what its objects claim.
func (s *Server) storeOptions(scheme *runtime.Scheme, codecs serializer.CodecFactory, rc registryConfig) *etcd.Options {
	services := storedServices(rc.Claims, "services/specs", kinds.StorageCodec(scheme, codecs, corev1.SchemeGroupVersion))
	return &etcd.Options{
		Source: s.config.Store,
		Codec: func(gr schema.GroupResource) runtime.Codec {
			return kinds.StorageCodec(scheme, codecs, scheme.PrioritizedVersionsForGroup(gr.Group)[0])
		},
		Wraps: map[schema.GroupResource]etcd.Wrap{
			{Resource: "services"}:                                      claims.Wrap(kinds.ServicePolicy(rc.Pools, rc.mirror), s.config.Logger),
			{Group: "networking.k8s.io", Resource: "servicecidrs"}:      claims.Wrap(serviceCIDRPolicy(rc.Pools, rc.mirror), s.config.Logger),
			{Group: "networking.k8s.io", Resource: "ipaddresses"}:       claims.Wrap(ipAddressPolicy(services, rc.Pools), s.config.Logger),
			{Group: "kubevirt.io", Resource: "virtualmachines"}:         claims.Wrap(guestPolicy(rc.guests, rc.mirror), s.config.Logger),
			{Group: "kubevirt.io", Resource: "virtualmachineinstances"}: claims.Wrap(guestPolicy(rc.guests, rc.mirror), s.config.Logger),
		},
		Keys: map[schema.GroupResource]string{
			{Resource: "services"}: "services/specs", {Resource: "endpoints"}: "services/endpoints", {Resource: "nodes"}: "minions",
			{Resource: "replicationcontrollers"}: "controllers",
		},
		Uncached: uncached,
	}
}

// addHooks has the server do, once it answers, what it does by its own API.
func (s *Server) addHooks(main *genericapiserver.GenericAPIServer, config *genericapiserver.RecommendedConfig, kube clientset.Interface, sec *security, followed func() bool) error {
	if err := sec.bootstrapRBAC(main, kube, followed); err != nil {
		return fmt.Errorf("prepare the default roles: %w", err)
	}
	if err := bootstrapServiceCIDR(main, kube, s.config.ServiceCIDRs, s.config.Logger); err != nil {
		return fmt.Errorf("prepare the default ServiceCIDR: %w", err)
	}
	return main.AddPostStartHook("start-informers", func(hook genericapiserver.PostStartHookContext) error {
		config.SharedInformerFactory.Start(hook.Done())
		return nil
	})
}

// genericConfig is what both servers share.
func (s *Server) genericConfig(scheme *runtime.Scheme, codecs serializer.CodecFactory, sec *security, check func(*http.Request) error) (*genericapiserver.RecommendedConfig, error) {
	config := genericapiserver.NewRecommendedConfig(codecs)
	config.EffectiveVersion = newServedVersion()
	config.MaxRequestBodyBytes = maxBodyBytes
	config.MinRequestTimeout = int(minRequestTimeout.Seconds())
	config.EnableProfiling = s.config.Profiling
	config.ShutdownWatchTerminationGracePeriod = watchDrain
	config.AggregatedDiscoveryGroupManager = discoveryendpoint.NewResourceManager("apis")
	config.LongRunningFunc = longRunning(genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString("console", "proxy")))
	config.SecureServing = &genericapiserver.SecureServingInfo{Listener: newBundling(s.config.Listener), Cert: s.config.Serving}
	ca, err := dynamiccertificates.NewStaticCAContent("portico-ca", s.config.Authority.PEM())
	if err != nil {
		return nil, fmt.Errorf("use the certificate authority: %w", err)
	}
	config.SecureServing.ClientCA = ca
	if err := s.loopbackConfig(config); err != nil {
		return nil, err
	}
	config.Authentication.Authenticator = newAuthenticator(s.config.Authority.Pool(), tokenunion.New(&s.process, sec.bootstrap, sec.issuer))
	config.Authentication.APIAudiences = sec.issuer.Audiences()
	config.Authorization.Authorizer, config.RuleResolver = sec.decides, sec.rules
	limits := s.config.Limits.withDefaults()
	limits.use(&config.Config)
	s.gets.limit, s.gets.patience = int64(limits.ReadOnly), limits.Request
	config.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		handler = admissionchain.WithRefunds(handler, s.config.Logger)
		handler = withGroups(handler, c.AggregatedDiscoveryGroupManager, c.DiscoveryAddresses, c.Serializer)
		handler = genericapiserver.DefaultBuildHandlerChain(limits.limit(withWritesCounted(withBundledWatches(s.watches.before(withLocalProfiles(withWarnings(handler, maxBodyBytes))), s.config.Audit != nil), &s.writes), c.LongRunningFunc), c)
		return s.gets.before(keepBareWriter(handler), c)
	}
	if s.config.Audit != nil {
		useAudit(&config.Config, s.config.Audit)
	}
	config.OpenAPIConfig, config.OpenAPIV3Config = openAPIConfigs()
	// Both servers' paths go into one document: see installOpenAPI.
	config.SkipOpenAPIInstallation = true
	config.AddReadyzChecks(healthz.NamedCheck("etcd", check))
	config.AddHealthzChecks(healthz.NamedCheck("etcd", check))
	return config, nil
}

// loopbackConfig lets the server call itself with a token that nobody else has.
func (s *Server) loopbackConfig(config *genericapiserver.RecommendedConfig) error {
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		return fmt.Errorf("make the server's own token: %w", err)
	}
	loopback, err := config.SecureServing.NewClientConfig(s.config.Authority.PEM())
	if err != nil {
		return fmt.Errorf("make the server's own client: %w", err)
	}
	loopback.BearerToken = hex.EncodeToString(token)
	loopback.TLSClientConfig.ServerName = "localhost"
	loopback.WarningHandler = rest.NoWarnings{} // they are for people
	loopback.QPS = -1
	loopback.ContentType = runtime.ContentTypeProtobuf
	loopback.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	loopback.UserAgent = "portico/" + s.config.Version
	config.LoopbackClientConfig = loopback
	s.loopback = loopback
	return nil
}

// namespaceLifecycle refuses objects in namespaces that don't exist or are ending.
func namespaceLifecycle(kube clientset.Interface, factory informers.SharedInformerFactory) (admission.Interface, error) {
	plugin, err := lifecycle.NewLifecycle(sets.New("default", "kube-system", "kube-public"))
	if err != nil {
		return nil, fmt.Errorf("make the admission of namespaces: %w", err)
	}
	plugin.SetExternalKubeClientSet(kube)
	plugin.SetExternalKubeInformerFactory(factory)
	if err := plugin.ValidateInitialization(); err != nil {
		return nil, fmt.Errorf("make the admission of namespaces: %w", err)
	}
	return plugin, nil
}

// newCustomResources builds the server of CustomResourceDefinitions and of their
// objects, the last of the chain.
func newCustomResources(config genericapiserver.RecommendedConfig, source etcd.Source) (*apiextensions.CustomResourceDefinitions, error) {
	config.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	config.MergedResourceConfig = apiextensions.DefaultAPIResourceConfigSource()
	config.RESTOptionsGetter = &etcd.Options{Source: source, Codec: func(schema.GroupResource) runtime.Codec {
		return apiextensions.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion)
	}}
	objects := &etcd.Options{Source: source, Codec: func(schema.GroupResource) runtime.Codec {
		return unstructured.UnstructuredJSONScheme
	}}
	crds, err := (&apiextensions.Config{
		GenericConfig: &config,
		ExtraConfig:   apiextensions.ExtraConfig{CRDRESTOptionsGetter: objects, MasterCount: 1},
	}).Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(http.NotFoundHandler()))
	if err != nil {
		return nil, fmt.Errorf("build the server of custom resources: %w", err)
	}
	return crds, nil
}
