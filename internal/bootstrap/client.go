package bootstrap

import (
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Client calls the API server with a token. It follows no redirect: client-go would
// send the token there, too, even in clear.
func Client(server *url.URL, token Token, authority []byte, agent string) (kubernetes.Interface, error) {
	config := &rest.Config{
		Host: server.String(), BearerToken: token.String(), TLSClientConfig: rest.TLSClientConfig{CAData: authority},
		UserAgent: agent, WarningHandler: rest.NoWarnings{},
	}
	plain, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	kube, err := kubernetes.NewForConfigAndClient(config, plain)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	return kube, nil
}
