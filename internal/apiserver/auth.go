package apiserver

import (
	"crypto/x509"
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
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

// newAuthenticator knows service accounts by their tokens, people and nodes by
// certificates of our authority. This process calls itself by a token that the library
// adds: verifying x509 is a good part of a request's cost.
func newAuthenticator(ca *x509.CertPool, tokens authenticator.Token) authenticator.Request {
	opts := x509request.DefaultVerifyOptions()
	opts.Roots = ca
	conditions := make([]apiserver.AnonymousAuthCondition, len(openPaths))
	for i, p := range openPaths {
		conditions[i] = apiserver.AnonymousAuthCondition{Path: p}
	}
	return union.New(
		group.NewAuthenticatedGroupAdder(union.New(
			bearertoken.New(tokens),
			websocket.NewProtocolAuthenticator(tokens), // browsers can't send the header
		)),
		newCertCache(group.NewAuthenticatedGroupAdder(x509request.New(opts, x509request.CommonNameUserConversion)), time.Now),
		anonymous.NewAuthenticator(conditions),
	)
}

// newAuthorizer lets system:masters do everything, whatever the stored roles say, and
// others what RBAC gives them, unless the authorizer of nodes denies it. The open paths need
// no roles, for they are asked for before any exist.
func newAuthorizer(rules, nodes authorizer.Authorizer) (authorizer.Authorizer, error) {
	open, err := path.NewAuthorizer(openPaths)
	if err != nil {
		return nil, fmt.Errorf("make the authorizer of open paths: %w", err)
	}
	return authorizerunion.New(
		authorizerunion.NamedAuthorizer{AuthorizerName: "paths", Authorizer: open},
		authorizerunion.NamedAuthorizer{AuthorizerName: "privileged", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		authorizerunion.NamedAuthorizer{AuthorizerName: "nodes", Authorizer: nodes},
		authorizerunion.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: rules},
	)
}
