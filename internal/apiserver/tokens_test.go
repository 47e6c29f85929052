package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/apitest"
)

func makeAccount(t testing.TB, s *apitest.Server, name string) {
	t.Helper()
	if _, err := s.Kube.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, create); err != nil {
		t.Fatal(err)
	}
}

func requestToken(t testing.TB, s *apitest.Server, account string, spec authenticationv1.TokenRequestSpec) (string, error) {
	t.Helper()
	r, err := s.Kube.CoreV1().ServiceAccounts("default").CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: spec}, create)
	if err != nil {
		return "", err
	}
	return r.Status.Token, nil
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := start(t)
	makeAccount(t, s, "robot")
	bind(t, s, "system:serviceaccount:default:robot", "view", "default")
	token, err := requestToken(t, s, "robot", authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	robot := bearing(t, s, token)
	_, err = robot.CoreV1().Services("default").List(ctx, list)
	ok(t, "a token with view", err)
	_, err = robot.CoreV1().Secrets("default").List(ctx, list)
	forbidden(t, "a token beyond view", err, "system:serviceaccount:default:robot")
	self, err := robot.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, create)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(self.Status.UserInfo.Groups); got != "[system:serviceaccounts system:serviceaccounts:default system:authenticated]" {
		t.Error(got)
	}

	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		r, err := s.Kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, create)
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if r := review(token); !r.Authenticated || r.User.Username != "system:serviceaccount:default:robot" || len(r.Audiences) != 1 {
		t.Errorf("review: %+v", r)
	}
	vault, err := requestToken(t, s, "robot", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := review(vault, "vault", "other"); !r.Authenticated || fmt.Sprint(r.Audiences) != "[vault]" {
		t.Errorf("review for its audience: %+v", r)
	}
	if r := review(vault); r.Authenticated || r.Error == "" {
		t.Errorf("review for the API of a token for another: %+v", r)
	}
	if _, err := bearing(t, s, vault).CoreV1().Services("default").List(ctx, list); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for another audience: %v", err)
	}
	for name, broken := range map[string]string{
		"changed": token[:len(token)-4] + "AAAA", "unsigned": "eyJhbGciOiJub25lIn0." + strings.Split(token, ".")[1] + ".", "words": "a.b.c", "huge": strings.Repeat("a", 20000),
	} {
		if r := review(broken); r.Authenticated {
			t.Errorf("a %s token: %+v", name, r)
		}
	}
	short := int64(60)
	_, err = requestToken(t, s, "robot", authenticationv1.TokenRequestSpec{ExpirationSeconds: &short})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not specify a duration less than 10 minutes") {
		t.Errorf("a minute: %v", err)
	}
	if _, err = requestToken(t, s, "nobody", authenticationv1.TokenRequestSpec{}); !apierrors.IsNotFound(err) {
		t.Errorf("of nobody: %v", err)
	}

	// An account that is made anew under its name is another one.
	if err := s.Kube.CoreV1().ServiceAccounts("default").Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	makeAccount(t, s, "robot")
	apitest.Eventually(t, "the token ends with its account", func() error {
		if _, err := robot.CoreV1().Services("default").List(ctx, list); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("got %v, want 401", err)
		}
		return nil
	})
	if r := review(token); r.Authenticated || !strings.Contains(r.Error, "was deleted") {
		t.Errorf("review of a revoked token: %+v", r)
	}
	token, err = requestToken(t, s, "robot", authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = bearing(t, s, token).CoreV1().Services("default").List(ctx, list)
	ok(t, "a new token, at once", err)
}

func TestBoundTokens(t *testing.T) {
	t.Parallel()
	s := start(t)
	makeAccount(t, s, "robot")
	if _, err := s.Kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, create); err != nil {
		t.Fatal(err)
	}
	pod := func(name, account string) *corev1.Pod {
		p, err := s.Kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			ServiceAccountName: account, NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		}}, create)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	mine, other := pod("mine", "robot"), pod("other", "somebody")
	bound := func(p *corev1.Pod, uid types.UID) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: uid}}
	}
	if _, err := requestToken(t, s, "robot", bound(other, "")); !apierrors.IsBadRequest(err) {
		t.Errorf("another's pod: %v", err)
	}
	if _, err := requestToken(t, s, "robot", bound(mine, "wrong")); !apierrors.IsConflict(err) {
		t.Errorf("another uid: %v", err)
	}
	token, err := requestToken(t, s, "robot", bound(mine, mine.UID))
	if err != nil {
		t.Fatal(err)
	}
	robot := bearing(t, s, token)
	self, err := robot.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, create)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"pod-name": "mine", "pod-uid": string(mine.UID), "node-name": "n"} {
		if got := fmt.Sprint(self.Status.UserInfo.Extra["authentication.kubernetes.io/"+key]); got != "["+want+"]" {
			t.Errorf("%s: %s", key, got)
		}
	}
	now := int64(0)
	if err := s.Kube.CoreV1().Pods("default").Delete(ctx, "mine", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the token ends with its pod", func() error {
		if _, err := robot.Discovery().ServerVersion(); err != nil {
			return err // that one is open to everybody
		}
		_, err := robot.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, create)
		if !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("got %v, want 401", err)
		}
		return nil
	})
}
