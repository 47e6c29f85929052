package apiserver

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/union"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	authorizerunion "k8s.io/apiserver/pkg/authorization/union"
)

// openPaths are answered to everybody: they say whether the server lives and what
// it is, nothing of what it holds.
var openPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// newAuthenticator knows people and nodes by certificates of our authority. This
// process calls itself by a token that the library adds: verifying x509 is a good
// part of a request's cost.
func newAuthenticator(ca *x509.CertPool) authenticator.Request {
	opts := x509request.DefaultVerifyOptions()
	opts.Roots = ca
	conditions := make([]apiserver.AnonymousAuthCondition, len(openPaths))
	for i, p := range openPaths {
		conditions[i] = apiserver.AnonymousAuthCondition{Path: p}
	}
	return union.New(
		group.NewAuthenticatedGroupAdder(x509request.New(opts, x509request.CommonNameUserConversion)),
		anonymous.NewAuthenticator(conditions),
	)
}

// newAuthorizer lets system:masters do everything, and whoever proved an identity
// read what the server serves. Rights between these two come with RBAC.
func newAuthorizer() (authorizer.Authorizer, error) {
	open, err := path.NewAuthorizer(openPaths)
	if err != nil {
		return nil, fmt.Errorf("make the authorizer of open paths: %w", err)
	}
	return authorizerunion.New(
		authorizerunion.NamedAuthorizer{AuthorizerName: "paths", Authorizer: open},
		authorizerunion.NamedAuthorizer{AuthorizerName: "privileged", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		authorizerunion.NamedAuthorizer{AuthorizerName: "discovery", Authorizer: authorizer.AuthorizerFunc(readDiscovery)},
	)
}

// readDiscovery lets authenticated users read discovery and OpenAPI: no client
// works without them.
func readDiscovery(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.IsResourceRequest() || a.GetVerb() != "get" || a.GetUser() == nil || a.GetUser().GetName() == user.Anonymous {
		return authorizer.DecisionNoOpinion, "", nil
	}
	for _, prefix := range []string{"/api", "/apis", "/openapi", "/version"} {
		if p := a.GetPath(); p == prefix || strings.HasPrefix(p, prefix+"/") {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}
