package tokens

import (
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
)

func TestProcessTokens(t *testing.T) {
	t.Parallel()
	var p Process
	known := func(token, want string) {
		t.Helper()
		r, ok, err := p.AuthenticateToken(t.Context(), token)
		if err != nil || ok != (want != "") || ok && r.User.GetName() != want {
			t.Errorf("%q: %v %v %v, want %q", token, r, ok, err, want)
		}
	}
	known("", "")
	a, err := p.Issue(&user.DefaultInfo{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Issue(&user.DefaultInfo{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	known(a, "a")
	known(b, "b")
	known(a+"x", "")
	known(strings.Repeat("x", maxTokenBytes+1), "")
}
