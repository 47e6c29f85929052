package tokens

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

const (
	// leeway is how far the clock of the server that signed may be ahead.
	leeway = 10 * time.Second
	// afterDeletion is how long after the end of its grace period a dying object still
	// counts, as upstream: what runs in a pod wants to say goodbye.
	afterDeletion = time.Minute
	// maxTokenBytes bounds what is parsed; ours are below a kilobyte.
	maxTokenBytes = 16 << 10
)

// Lookup gives an object that a token names: a ServiceAccount, Pod, Secret or Node.
// Live reads it from the store; otherwise a copy that is a moment old will do.
type Lookup func(ctx context.Context, kind, namespace, name string, live bool) (metav1.Object, error)

// AuthenticateToken implements authenticator.Token.
func (i *Issuer) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, err := i.verify(token)
	if err != nil {
		return nil, false, err
	}
	if err := i.valid(c); err != nil {
		return nil, false, err
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(wanted) == 0 {
		wanted = i.Audiences()
	}
	audiences := authenticator.Audiences(c.Audience).Intersect(wanted)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q are not among the wanted %q", []string(c.Audience), []string(wanted))
	}
	if err := i.alive(ctx, &c.Kubernetes); err != nil {
		return nil, false, err
	}
	k := &c.Kubernetes
	info := serviceaccount.ServiceAccountInfo{
		Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: string(k.ServiceAccount.UID),
		CredentialID: "JTI=" + c.ID,
	}
	if k.Pod != nil {
		info.PodName, info.PodUID = k.Pod.Name, string(k.Pod.UID)
	}
	if k.Node != nil {
		info.NodeName, info.NodeUID = k.Node.Name, string(k.Node.UID)
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// verify checks the signature and reads the claims.
func (i *Issuer) verify(token string) (*claims, error) {
	if len(token) > maxTokenBytes {
		return nil, errors.New("the token is too long to be one of a service account")
	}
	hash := sha256.Sum256([]byte(token))
	if c, ok := i.verified.Get(hash); ok {
		return c.(*claims), nil
	}
	c := &claims{}
	_, err := jwt.ParseWithClaims(token, c, func(*jwt.Token) (any, error) { return i.key.Public(), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	if err != nil {
		return nil, fmt.Errorf("the token is none that this cluster signed: %w", err)
	}
	i.verified.Add(hash, c)
	return c, nil
}

// valid checks the claims that need nothing else.
func (i *Issuer) valid(c *claims) error {
	validator := jwt.NewValidator(jwt.WithTimeFunc(i.now), jwt.WithLeeway(leeway), jwt.WithExpirationRequired(), jwt.WithIssuer(i.name))
	switch err := validator.Validate(c); {
	case errors.Is(err, jwt.ErrTokenExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return errors.New("service account token is not valid yet")
	case err != nil:
		return fmt.Errorf("service account token is invalid: %w", err)
	}
	k := &c.Kubernetes
	if k.Namespace == "" || k.ServiceAccount.Name == "" || c.Subject != "system:serviceaccount:"+k.Namespace+":"+k.ServiceAccount.Name {
		return fmt.Errorf("service account token is invalid: its subject %q and its account %s/%s differ", c.Subject, k.Namespace, k.ServiceAccount.Name)
	}
	return nil
}

// alive checks that what the token names still exists, and is still the same.
func (i *Issuer) alive(ctx context.Context, k *private) error {
	if err := i.same(ctx, "ServiceAccount", k.Namespace, &k.ServiceAccount); err != nil {
		return err
	}
	switch {
	case k.Pod != nil: // and its node with it
		return i.same(ctx, "Pod", k.Namespace, k.Pod)
	case k.Secret != nil:
		return i.same(ctx, "Secret", k.Namespace, k.Secret)
	case k.Node != nil:
		return i.same(ctx, "Node", "", k.Node)
	}
	return nil
}

// same looks twice before it says no: the first, cheap look may be a moment old, and
// the token as fresh as its account.
func (i *Issuer) same(ctx context.Context, kind, namespace string, ref *reference) (err error) {
	for _, live := range []bool{false, true} {
		var obj metav1.Object
		if obj, err = i.lookup(ctx, kind, namespace, ref.Name, live); err != nil {
			err = fmt.Errorf("service account token has been invalidated: look up its %s %s: %w", kind, ref.Name, err)
			continue
		}
		if deleted := obj.GetDeletionTimestamp(); obj.GetUID() != ref.UID || deleted != nil && i.now().After(deleted.Add(afterDeletion)) {
			err = fmt.Errorf("service account token has been invalidated: its %s %s was deleted", kind, ref.Name)
			continue
		}
		return nil
	}
	return err
}
