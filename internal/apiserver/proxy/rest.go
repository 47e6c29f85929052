package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
)

// methods are those of upstream; connections are upgraded by GET.
var methods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodHead, http.MethodOptions,
}

// REST serves one of the two subresources.
type REST struct {
	options   func() runtime.Object
	find      func(ctx context.Context, id string) (*url.URL, error)
	transport http.RoundTripper
}

var _ rest.Connecter = (*REST)(nil)

// Services serves services/NAME/proxy.
func Services(o Objects) *REST {
	return &REST{func() runtime.Object { return &corev1.ServiceProxyOptions{} }, o.service, newTransport()}
}

// Pods serves pods/NAME/proxy.
func Pods(o Objects) *REST {
	return &REST{func() runtime.Object { return &corev1.PodProxyOptions{} }, o.pod, newTransport()}
}

const (
	// dialTimeout is short of the minute after which clients give up.
	dialTimeout = 30 * time.Second
	// idleTimeout and idlePerHost bound what is kept open to workloads that come and go.
	idleTimeout = 30 * time.Second
	idlePerHost = 4
)

// newTransport speaks HTTP/1.1, which can be upgraded. It takes no heed of HTTP_PROXY:
// workloads aren't behind one.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		// An address is all that is known of a workload, and certificates are made for
		// names: upstream doesn't verify them here either.
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     idleTimeout,
		MaxIdleConnsPerHost: idlePerHost,
		// What the backend has compressed stays so.
		DisableCompression: true,
	}
}

// New implements rest.Storage.
func (r *REST) New() runtime.Object { return r.options() }

// Destroy implements rest.Storage.
func (r *REST) Destroy() {
	if t, ok := r.transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// ConnectMethods implements rest.Connecter.
func (r *REST) ConnectMethods() []string { return methods }

// NewConnectOptions implements rest.Connecter: what follows proxy/ is in "path".
func (r *REST) NewConnectOptions() (options runtime.Object, includePath bool, pathKey string) {
	return r.options(), true, "path"
}

// Connect implements rest.Connecter. The library's handler passes on bodies and streams
// as they come, and makes redirects and links in HTML lead through the API again.
func (r *REST) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	var path string
	switch o := options.(type) {
	case *corev1.ServiceProxyOptions:
		path = o.Path
	case *corev1.PodProxyOptions:
		path = o.Path
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("options of a proxy are wanted, not a %T", options))
	}
	location, err := r.find(ctx, id)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, path)
	return utilproxy.NewUpgradeAwareHandler(location, r.transport, true, false, utilproxy.NewErrorResponder(responder)), nil
}

// AddConversions lets a scheme read the options from a request's query. k8s.io/api has
// the types without it.
func AddConversions(s *runtime.Scheme) error {
	service := func(in, out any, _ conversion.Scope) error {
		out.(*corev1.ServiceProxyOptions).Path = in.(*url.Values).Get("path")
		return nil
	}
	if err := s.AddConversionFunc((*url.Values)(nil), (*corev1.ServiceProxyOptions)(nil), service); err != nil {
		return fmt.Errorf("read the options of services/proxy: %w", err)
	}
	pod := func(in, out any, _ conversion.Scope) error {
		out.(*corev1.PodProxyOptions).Path = in.(*url.Values).Get("path")
		return nil
	}
	if err := s.AddConversionFunc((*url.Values)(nil), (*corev1.PodProxyOptions)(nil), pod); err != nil {
		return fmt.Errorf("read the options of pods/proxy: %w", err)
	}
	return nil
}
