package bootstrap

import (
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/rbac"
)

const (
	userPrefix   = "system:bootstrap:"
	secretPrefix = "bootstrap-token-"

	// The keys of a token's Secret are upstream's, so that kubeadm's tools read ours, too.
	keyID             = "token-id"
	keySecret         = "token-secret" // a key's name
	keyExpiration     = "expiration"
	keyDescription    = "description"
	keyAuthentication = "usage-bootstrap-authentication"
	keyGroups         = "auth-extra-groups"
)

var (
	tokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	idForm    = regexp.MustCompile(`^[a-z0-9]{6}$`)
	groupForm = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]*[a-z0-9]$`)
)

// maxGroup bounds the names that groupForm takes. The form itself with a bound would be
// compiled into as many steps, at each start of the program.
const maxGroup = len("system:bootstrappers:") + 256

// Token proves that a host may join: a public ID, and a secret.
type Token struct{ ID, Secret string }

// NewToken makes a token that can't be guessed.
func NewToken() Token {
	text := strings.ToLower(rand.Text()) // 26 characters of 5 bits: the secret has 80
	return Token{ID: text[:6], Secret: text[6:22]}
}

// ParseToken reads ID.SECRET.
func ParseToken(text string) (Token, error) {
	parts := tokenForm.FindStringSubmatch(text)
	if parts == nil {
		return Token{}, errors.New("the token isn't of the form abcdef.0123456789abcdef; `portico token create` on the server prints one")
	}
	return Token{parts[1], parts[2]}, nil
}

func (t Token) String() string { return t.ID + "." + t.Secret }

// SecretName is the name of a token's Secret in kube-system.
func SecretName(id string) (string, error) {
	if !idForm.MatchString(id) {
		return "", fmt.Errorf("%q is no token's ID, which has six characters such as abcdef; `portico token list` shows them", id)
	}
	return secretPrefix + id, nil
}

// Object is the Secret that makes a token good for joining nodes until end; the zero
// time: for ever.
func (t Token) Object(end time.Time, description string) *corev1.Secret {
	data := map[string]string{keyID: t.ID, keySecret: t.Secret, keyAuthentication: "true", keyGroups: rbac.BootstrappersGroup}
	if !end.IsZero() {
		data[keyExpiration] = end.UTC().Format(time.RFC3339)
	}
	if description != "" {
		data[keyDescription] = description
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: secretPrefix + t.ID},
		Type:       corev1.SecretTypeBootstrapToken, StringData: data,
	}
}

// Stored is what a token's Secret says.
type Stored struct {
	Token
	End            time.Time // zero: it has none
	Description    string
	Groups         []string // all that who holds it is in
	Authenticates  bool
	beingDestroyed bool
}

// Read says what a Secret means; an error, that it is no token's.
func Read(s *corev1.Secret) (*Stored, error) {
	value := func(key string) string { return string(s.Data[key]) }
	wrong := func(format string, args ...any) (*Stored, error) {
		return nil, fmt.Errorf("the Secret %s/%s is no bootstrap token: %w", s.Namespace, s.Name, fmt.Errorf(format, args...))
	}
	token, err := ParseToken(value(keyID) + "." + value(keySecret))
	switch {
	case s.Type != corev1.SecretTypeBootstrapToken:
		return wrong("its type is %q", s.Type)
	case err != nil:
		return wrong("%s or %s is malformed", keyID, keySecret)
	case s.Name != secretPrefix+token.ID:
		return wrong("its name isn't %s%s", secretPrefix, token.ID)
	}
	out := &Stored{
		Token: token, Description: value(keyDescription), Groups: []string{rbac.AllBootstrappersGroup},
		Authenticates: value(keyAuthentication) == "true", beingDestroyed: s.DeletionTimestamp != nil,
	}
	if text := value(keyExpiration); text != "" {
		if out.End, err = time.Parse(time.RFC3339, text); err != nil {
			return wrong("%s: %w", keyExpiration, err)
		}
	}
	for _, g := range strings.FieldsFunc(value(keyGroups), func(r rune) bool { return r == ',' }) {
		if len(g) > maxGroup || !groupForm.MatchString(g) {
			return wrong("%s: a token can't be of the group %q", keyGroups, g)
		}
		if !slices.Contains(out.Groups, g) {
			out.Groups = append(out.Groups, g)
		}
	}
	return out, nil
}

// Over says whether a token's time has passed.
func (s *Stored) Over(now time.Time) bool { return !s.End.IsZero() && !now.Before(s.End) }
