package bootstrap

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/rbac"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// stored is a token's Secret as the API server keeps it, with changes.
func stored(t Token, end time.Time, change map[string]string) *corev1.Secret {
	s := t.Object(end, "for a test")
	s.Data = map[string][]byte{}
	values := maps.Clone(s.StringData)
	maps.Copy(values, change)
	for k, v := range values {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
	return s
}

func TestReadToken(t *testing.T) {
	token := NewToken()
	if back, err := ParseToken(token.String()); err != nil || back != token {
		t.Fatalf("%s: %v, %v", token, back, err)
	}
	s, err := Read(stored(token, noon, nil))
	if err != nil || s.Token != token || !s.End.Equal(noon) || !s.Authenticates || s.Description != "for a test" ||
		!slices.Equal(s.Groups, []string{"system:bootstrappers", rbac.BootstrappersGroup}) {
		t.Errorf("%+v, %v", s, err)
	}
	for want, change := range map[string]map[string]string{
		"malformed":                 {keySecret: "short"},
		"its name isn't":            {keyID: "zzzzzz"},
		"expiration":                {keyExpiration: "tomorrow"},
		`group "system:masters"`:    {keyGroups: "system:masters"},
		`"system:bootstrappers:A"`:  {keyGroups: rbac.BootstrappersGroup + ",system:bootstrappers:A"},
		"token-id or token-secret ": {keyID: ""},
		"aaa\"":                     {keyGroups: "system:bootstrappers:" + strings.Repeat("a", 257)},
	} {
		if _, err := Read(stored(token, noon, change)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", change, err, want)
		}
	}
	if _, err := Read(stored(token, noon, map[string]string{keyGroups: "system:bootstrappers:" + strings.Repeat("a", 256)})); err != nil {
		t.Error("the longest name of a group: ", err)
	}
	other := stored(token, noon, nil)
	other.Type = corev1.SecretTypeOpaque
	if _, err := Read(other); err == nil {
		t.Error("an opaque Secret passes for a token")
	}
}

// A token lets in until its time is over, and nobody but who has its secret.
func TestAuthenticate(t *testing.T) {
	token := NewToken()
	for name, c := range map[string]struct {
		secret *corev1.Secret
		text   string
		want   string // in the error; "": it is let in
	}{
		"good":             {stored(token, noon.Add(time.Second), nil), token.String(), ""},
		"for ever":         {stored(token, time.Time{}, nil), token.String(), ""},
		"over":             {stored(token, noon, nil), token.String(), "it ended"},
		"another secret":   {stored(token, noon.Add(time.Hour), map[string]string{keySecret: "0123456789abcdef"}), token.String(), "its secret is another"},
		"for signing only": {stored(token, noon.Add(time.Hour), map[string]string{keyAuthentication: "false"}), token.String(), "isn't for authentication"},
		"no Secret":        {nil, token.String(), "doesn't exist"},
	} {
		a := &Authenticator{Now: func() time.Time { return noon }, Secret: func(_ context.Context, name string, live bool) (*corev1.Secret, error) {
			if c.secret == nil || name != c.secret.Name || !live { // as if it was made a moment ago
				return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
			}
			return c.secret, nil
		}}
		got, ok, err := a.AuthenticateToken(t.Context(), c.text)
		if ok != (c.want == "") || (err == nil) != ok || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %v", name, ok, err)
		}
		if ok && (got.User.GetName() != "system:bootstrap:"+token.ID || !slices.Contains(got.User.GetGroups(), rbac.BootstrappersGroup)) {
			t.Errorf("%s: it is %v", name, got.User)
		}
	}
	deleted := stored(token, time.Time{}, nil)
	deleted.DeletionTimestamp = &metav1.Time{Time: noon}
	a := &Authenticator{Now: time.Now, Secret: func(context.Context, string, bool) (*corev1.Secret, error) { return deleted, nil }}
	if _, ok, _ := a.AuthenticateToken(t.Context(), token.String()); ok {
		t.Error("a token that is being deleted lets in")
	}
	a.Secret = func(context.Context, string, bool) (*corev1.Secret, error) { return nil, errors.New("not to be asked") }
	if _, ok, err := a.AuthenticateToken(t.Context(), "eyJ.an.other"); ok || err != nil {
		t.Errorf("another kind of token: %v %v", ok, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"abcdef.0123456789abcdef", "abcdef.", ".", "sha256:" + strings.Repeat("0a", 32), "sha256:zz", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := ParseToken(text); err == nil && token.String() != text {
			t.Errorf("token %q reads as %v", text, token)
		}
		if h, err := ParseHash(text); err == nil && !strings.EqualFold(h.String(), text) {
			t.Errorf("hash %q reads as %v", text, h)
		}
		if name, err := SecretName(text); err == nil && len(name) != len(secretPrefix)+6 {
			t.Errorf("ID %q has the Secret %s", text, name)
		}
		_, _ = Read(stored(Token{"abcdef", "0123456789abcdef"}, noon, map[string]string{keyGroups: text, keyExpiration: text}))
	})
}
