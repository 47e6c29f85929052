package apiserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/test/journal"
)

// The audit log says who wrote what, never what was in it.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	log := &journal.Log{}
	s := start(t, func(c *apiserver.Config) { c.Audit = log })
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hidden"}, StringData: map[string]string{"password": "correct-horse"}}
	if _, err := s.Kube.CoreV1().Secrets("default").Create(ctx, secret, create); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kube.CoreV1().Secrets("default").Get(ctx, "hidden", get); err != nil {
		t.Fatal(err)
	}
	_, err := as(t, s, "jane").CoreV1().Secrets("default").Create(ctx, secret, create)
	forbidden(t, "jane", err)
	s.Stop()
	var events []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "correct-horse") {
			t.Error("an object is in the log: ", line)
		}
		var e struct {
			Stage, Verb, Level string
			User               struct{ Username string }
			ObjectRef          struct{ Resource, Namespace, Name string }
			ResponseStatus     struct{ Code int }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Verb == "get" || e.Verb == "list" || e.Verb == "watch" || e.ObjectRef.Resource == "leases" {
			t.Error("noted without need: ", line)
		}
		if e.ObjectRef.Resource == "secrets" {
			events = append(events, fmt.Sprint(e.Stage, e.User.Username, e.Verb, e.ObjectRef.Namespace, e.ResponseStatus.Code))
		}
	}
	// Who creates names the object in its body, so the reference has no name there.
	if got := fmt.Sprint(events); got != "[ResponseCompletesystem:apiservercreatedefault201 ResponseCompletejanecreatedefault403]" {
		t.Error(got)
	}
}
