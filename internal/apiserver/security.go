package apiserver

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	clientset "k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/authz"
	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/apiserver/noderestriction"
	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/apiserver/reviews"
	"portico.dev/portico/internal/apiserver/tokens"
	"portico.dev/portico/internal/bootstrap"
)

// security decides who somebody is and what it may do.
type security struct {
	rules   *authz.Authorizer
	decides authorizer.Authorizer // rules, and what holds without them
	issuer  *tokens.Issuer
	// bootstrap knows hosts that are about to join.
	bootstrap *bootstrap.Authenticator
	// objects are what tokens name and nodes' rights ask for, by kind. The registries fill
	// it; nobody asks before they have, for the server doesn't answer yet.
	objects map[string]rest.Getter
}

func newSecurity(key *ecdsa.PrivateKey, clusterDomain string) (*security, error) {
	if key == nil {
		return nil, errors.New("make the issuer of tokens: there is no signing key")
	}
	sec := &security{rules: authz.New(), objects: map[string]rest.Getter{}}
	var err error
	if sec.issuer, err = tokens.New("https://kubernetes.default.svc."+clusterDomain, key, sec.lookup, time.Now); err != nil {
		return nil, err
	}
	sec.bootstrap = &bootstrap.Authenticator{Secret: sec.systemSecret, Now: time.Now}
	sec.decides, err = newAuthorizer(sec.rules, &noderestriction.Reads{Lookup: sec.lookup})
	return sec, err
}

// lookup is tokens.Lookup on our own registries: without a request through the whole
// server, and where it may be a moment old from the watch cache.
func (sec *security) lookup(ctx context.Context, kind, namespace, name string, live bool) (metav1.Object, error) {
	getter := sec.objects[kind]
	if getter == nil {
		return nil, fmt.Errorf("this server has no %s", kind)
	}
	options := &metav1.GetOptions{ResourceVersion: "0"}
	if live {
		options.ResourceVersion = ""
	}
	obj, err := getter.Get(genericrequest.WithNamespace(ctx, namespace), name, options)
	if err != nil {
		return nil, err
	}
	return meta.Accessor(obj)
}

// systemSecret is bootstrap.Authenticator's.
func (sec *security) systemSecret(ctx context.Context, name string, live bool) (*corev1.Secret, error) {
	obj, err := sec.lookup(ctx, "Secret", metav1.NamespaceSystem, name, live)
	if err != nil {
		return nil, err
	}
	secret, ok := obj.(*corev1.Secret)
	if !ok {
		return nil, fmt.Errorf("the Secret %s is a %T", name, obj)
	}
	return secret, nil
}

// addSecurity serves roles, bindings, reviews and tokens. It comes after kinds.Add.
func addSecurity(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter, sec *security) error {
	checks := grantChecks(&authz.Grants{Rules: sec.rules, Decides: sec.decides})
	for plural, build := range map[string]func() (*registry.Storage, error){
		"roles": func() (*registry.Storage, error) {
			r, _, err := registry.Add(s, scheme, options, kinds.RoleKind())
			return r, err
		},
		"clusterroles": func() (*registry.Storage, error) {
			r, _, err := registry.Add(s, scheme, options, kinds.ClusterRoleKind())
			return r, err
		},
		"rolebindings": func() (*registry.Storage, error) {
			r, _, err := registry.Add(s, scheme, options, kinds.RoleBindingKind())
			return r, err
		},
		"clusterrolebindings": func() (*registry.Storage, error) {
			r, _, err := registry.Add(s, scheme, options, kinds.ClusterRoleBindingKind())
			return r, err
		},
	} {
		storage, err := build()
		if err != nil {
			return err
		}
		s.Put(rbacv1.SchemeGroupVersion, plural, &grantStorage{storage, checks[plural]})
	}
	who, may := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	s.Put(who, "tokenreviews", reviews.NewToken(sec.issuer, sec.issuer.Audiences()))
	s.Put(who, "selfsubjectreviews", reviews.NewSelf())
	s.Put(may, "subjectaccessreviews", reviews.NewAccess(sec.decides))
	s.Put(may, "localsubjectaccessreviews", reviews.NewLocalAccess(sec.decides))
	s.Put(may, "selfsubjectaccessreviews", reviews.NewSelfAccess(sec.decides))
	s.Put(may, "selfsubjectrulesreviews", reviews.NewSelfRules(sec.rules))

	core := corev1.SchemeGroupVersion
	for kind, plural := range map[string]string{"ServiceAccount": "serviceaccounts", "Pod": "pods", "Secret": "secrets", "Node": "nodes"} {
		getter, ok := s[core][plural].(rest.Getter)
		if !ok {
			return fmt.Errorf("set up tokens: %s can't be read", plural)
		}
		sec.objects[kind] = getter
	}
	s.Put(core, "serviceaccounts/token", tokens.REST{Issuer: sec.issuer})
	return nil
}

// bootstrapPoll is short, for a start waits for it.
const bootstrapPoll = 10 * time.Millisecond

// bootstrapRBAC makes the default roles once the server answers, and holds its readiness
// back until they, and all that was stored before, count: the authorizer may have looked
// before they were made, and then learns of them by its watch, a moment later.
func (sec *security) bootstrapRBAC(main *genericapiserver.GenericAPIServer, kube clientset.Interface, followed func() bool) error {
	return main.AddPostStartHook("rbac/bootstrap-roles", func(hook genericapiserver.PostStartHookContext) error {
		var stored authz.Defaults
		made := false
		// Its only error is the end of the server. A failure says that the listener isn't
		// ready yet, the store ails, or another server was faster: it is tried again.
		_ = wait.PollUntilContextCancel(hook, bootstrapPoll, true, func(ctx context.Context) (bool, error) {
			if !made {
				var err error
				stored, err = authz.Bootstrap(ctx, kube.RbacV1())
				made = err == nil
			}
			if !made || !followed() {
				return false, nil
			}
			// What the authorizer doesn't see may have been changed since: it is read again.
			made = sec.rules.Sees(stored)
			return made, nil
		})
		return nil
	})
}
