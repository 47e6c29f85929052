package tokens

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// world is the objects that exist, what a cache shows of them, and the time.
type world struct {
	now          time.Time
	live, cached map[string]metav1.Object
	key          *ecdsa.PrivateKey
	issuer       *Issuer
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{now: time.Unix(1_700_000_000, 0), live: map[string]metav1.Object{}, cached: map[string]metav1.Object{}, key: key}
	w.issuer, err = New("https://api", key, func(_ context.Context, kind, namespace, name string, live bool) (metav1.Object, error) {
		from := w.cached
		if live {
			from = w.live
		}
		if obj := from[kind+"/"+namespace+"/"+name]; obj != nil {
			return obj, nil
		}
		return nil, apierrors.NewNotFound(corev1.Resource(kind), name)
	}, func() time.Time { return w.now })
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) account(uid string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "robot", UID: types.UID(uid)}}
}

func (w *world) token(t testing.TB, account *corev1.ServiceAccount, bound *binding) string {
	t.Helper()
	i, err := w.issuer.sign(account, bound, w.issuer.Audiences(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return i.token
}

func (w *world) check(t testing.TB, what, token, want string) {
	t.Helper()
	r, ok, err := w.issuer.AuthenticateToken(context.Background(), token)
	if want == "" {
		if err != nil || !ok || r.User.GetName() != "system:serviceaccount:ns:robot" {
			t.Errorf("%s: %v, %v", what, ok, err)
		}
	} else if ok || err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, got %v, want %q", what, ok, err, want)
	}
}

const robot, pod = "ServiceAccount/ns/robot", "Pod/ns/p"

func TestTokenLivesAsLongAsItsTime(t *testing.T) {
	w := newWorld(t)
	w.cached[robot] = w.account("1")
	token := w.token(t, w.account("1"), nil)
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{0, ""},
		{time.Hour, ""}, // and the leeway
		{time.Hour + leeway + time.Second, "has expired"},
		{-leeway, ""},
		{-time.Minute, "not valid yet"},
	} {
		w.now = time.Unix(1_700_000_000, 0).Add(c.after)
		w.check(t, c.after.String(), token, c.want) // its signature is remembered from the first
	}
}

func TestTokenLivesAsLongAsItsObjects(t *testing.T) {
	w := newWorld(t)
	first, second := w.account("1"), w.account("2")
	w.live[robot] = first
	token := w.token(t, first, nil)
	w.check(t, "an account that the cache doesn't show yet", token, "")
	w.cached[robot] = first
	w.check(t, "one that it shows", token, "")
	w.cached[robot], w.live[robot] = second, second
	w.check(t, "one made anew", token, "was deleted")
	w.cached[robot] = first
	w.check(t, "one the cache still shows", token, "") // for some milliseconds
	w.cached = map[string]metav1.Object{}
	w.check(t, "made anew, and the cache is behind", token, "was deleted")
	delete(w.live, robot)
	w.check(t, "no account", token, "invalidated")

	w.live[robot] = first
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p1"}}
	bound := w.token(t, first, &binding{kind: "Pod", object: p})
	w.check(t, "no pod", bound, "look up its Pod p")
	w.live[pod] = p
	w.check(t, "a pod", bound, "")
	p.DeletionTimestamp = &metav1.Time{Time: w.now}
	w.check(t, "a pod that ends", bound, "")
	w.now = w.now.Add(afterDeletion + time.Second)
	w.check(t, "a pod that should have ended", bound, "was deleted")
}

func TestForeignTokens(t *testing.T) {
	w := newWorld(t)
	w.live[robot] = w.account("1")
	other := newWorld(t)
	w.check(t, "another key", other.token(t, w.account("1"), nil), "none that this cluster signed")

	sign := func(method jwt.SigningMethod, key any, change func(*claims)) string {
		c := &claims{RegisteredClaims: jwt.RegisteredClaims{
			Issuer: "https://api", Subject: "system:serviceaccount:ns:robot", Audience: []string{"https://api"},
			ExpiresAt: jwt.NewNumericDate(w.now.Add(time.Hour)),
		}, Kubernetes: private{Namespace: "ns", ServiceAccount: reference{"robot", w.account("1").UID}}}
		change(c)
		s, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ours := func(change func(*claims)) string { return sign(jwt.SigningMethodES256, w.key, change) }
	w.check(t, "as it should be", ours(func(*claims) {}), "")
	w.check(t, "unsigned", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, func(*claims) {}), "none that this cluster signed")
	w.check(t, "signed with a password", sign(jwt.SigningMethodHS256, []byte("x"), func(*claims) {}), "none that this cluster signed")
	w.check(t, "another issuer", ours(func(c *claims) { c.Issuer = "https://other" }), "invalid")
	w.check(t, "for ever", ours(func(c *claims) { c.ExpiresAt = nil }), "invalid")
	w.check(t, "another subject", ours(func(c *claims) { c.Subject = "system:serviceaccount:ns:root" }), "differ")
	w.check(t, "no account", ours(func(c *claims) { c.Kubernetes = private{} }), "differ")
	w.check(t, "another audience", ours(func(c *claims) { c.Audience = []string{"vault"} }), "audiences")
	w.check(t, "too long", strings.Repeat("a", maxTokenBytes+1), "too long")

	ctx := authenticator.WithAudiences(context.Background(), authenticator.Audiences{"vault", "other"})
	r, ok, err := w.issuer.AuthenticateToken(ctx, ours(func(c *claims) { c.Audience = []string{"x", "vault"} }))
	if err != nil || !ok || len(r.Audiences) != 1 || r.Audiences[0] != "vault" {
		t.Errorf("an audience that is asked for: %v %v %v", r, ok, err)
	}
}

// Whatever a client sends as a token, it is refused and nothing breaks.
func FuzzToken(f *testing.F) {
	w := newWorld(f)
	w.live[robot] = w.account("1")
	good := w.token(f, w.account("1"), nil)
	for _, seed := range []string{good, good[:len(good)-1], "a.b.c", "", "..", "eyJhbGciOiJub25lIn0.e30.", good + ".x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, ok, err := w.issuer.AuthenticateToken(context.Background(), token); ok != (err == nil) || ok && token != good {
			t.Errorf("%q: %v %v", token, ok, err)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	w := newWorld(b)
	w.cached[robot] = w.account("1")
	token := w.token(b, w.account("1"), nil)
	b.ReportAllocs()
	for b.Loop() {
		w.check(b, "good", token, "")
	}
}
