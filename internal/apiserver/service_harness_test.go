package apiserver_test

import (
	"encoding/json"
	"slices"
	"testing"

	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

// askAs sends a body of a given content type as system:masters.
func askAs(t testing.TB, s *apitest.Server, method, path, contentType, body string) answer {
	t.Helper()
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return askWith(t, client, s.Config.Host, method, path, contentType, body)
}

// decodeInto reads the answer's body as an object.
func decodeInto(t testing.TB, a answer, obj any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), obj); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

// sortCauses puts causes into an order of their own: the server's is of no meaning.
func sortCauses(causes []string) { slices.Sort(causes) }
