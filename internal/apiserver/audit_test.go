package apiserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/apiserver"
)

// The audit log says who wrote what, never what was in it.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	log := &lockedBuffer{}
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

// lockedBuffer is written by requests at once.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
