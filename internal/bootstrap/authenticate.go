package bootstrap

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Authenticator knows who holds a bootstrap token.
type Authenticator struct {
	// Secret reads a Secret of kube-system. Live reads it from the store; otherwise a
	// copy that is a moment old will do.
	Secret func(ctx context.Context, name string, live bool) (*corev1.Secret, error)
	Now    func() time.Time
}

var _ authenticator.Token = (*Authenticator)(nil)

// AuthenticateToken implements authenticator.Token. It looks twice before it says no:
// the first, cheap look may be a moment old, and the token as fresh as its Secret.
func (a *Authenticator) AuthenticateToken(ctx context.Context, text string) (*authenticator.Response, bool, error) {
	token, err := ParseToken(text)
	if err != nil {
		return nil, false, nil //nolint:nilerr // it is another kind of token
	}
	var stored *Stored
	for _, live := range []bool{false, true} {
		if stored, err = a.check(ctx, token, live); err == nil {
			return &authenticator.Response{User: &user.DefaultInfo{Name: userPrefix + token.ID, Groups: stored.Groups}}, true, nil
		}
	}
	return nil, false, fmt.Errorf("bootstrap token %s: %w", token.ID, err)
}

func (a *Authenticator) check(ctx context.Context, token Token, live bool) (*Stored, error) {
	secret, err := a.Secret(ctx, secretPrefix+token.ID, live)
	switch {
	case apierrors.IsNotFound(err):
		return nil, errors.New("it doesn't exist")
	case err != nil:
		return nil, err
	}
	stored, err := Read(secret)
	switch {
	case err != nil:
		return nil, err
	case subtle.ConstantTimeCompare([]byte(stored.Secret), []byte(token.Secret)) != 1:
		return nil, errors.New("its secret is another")
	case stored.beingDestroyed || !stored.Authenticates:
		return nil, errors.New("it isn't for authentication")
	case stored.Over(a.Now()):
		return nil, fmt.Errorf("it ended at %s", stored.End.Format(time.RFC3339))
	}
	return stored, nil
}
