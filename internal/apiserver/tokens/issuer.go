package tokens

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/utils/lru"
)

// remembered is how many tokens' signatures are known to be good: a signature on
// P-256 takes some 70 µs to verify, and clients send the same token again and again.
// Only the signature is remembered, never that the token holds.
const remembered = 4096

// Issuer signs tokens in the name of one cluster, and checks them.
type Issuer struct {
	name     string // the claim "iss", and the audience of the API itself
	key      *ecdsa.PrivateKey
	keyID    string
	lookup   Lookup
	now      func() time.Time
	verified *lru.Cache // of *claims by the token's hash
}

// New makes an issuer. Its name is the address of the API inside the cluster.
func New(name string, key *ecdsa.PrivateKey, lookup Lookup, now func() time.Time) (*Issuer, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the public key of service-account tokens: %w", err)
	}
	sum := sha256.Sum256(der)
	return &Issuer{
		name: name, key: key, keyID: base64.RawURLEncoding.EncodeToString(sum[:]), lookup: lookup, now: now,
		verified: lru.New(remembered),
	}, nil
}

// Audiences are those of the API itself.
func (i *Issuer) Audiences() authenticator.Audiences { return authenticator.Audiences{i.name} }

// claims are those of RFC 7519 and one of Kubernetes'.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes private `json:"kubernetes.io"`
}

type private struct {
	Namespace      string     `json:"namespace"`
	ServiceAccount reference  `json:"serviceaccount"`
	Pod            *reference `json:"pod,omitempty"`
	Secret         *reference `json:"secret,omitempty"`
	Node           *reference `json:"node,omitempty"`
}

type reference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// sign makes a token for an account. bound may be nil.
func (i *Issuer) sign(account *corev1.ServiceAccount, bound *binding, audiences []string, life time.Duration) (issued, error) {
	now := i.now()
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: i.name, Subject: "system:serviceaccount:" + account.Namespace + ":" + account.Name, Audience: audiences,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
			ID: uuid.NewString(),
		},
		Kubernetes: private{Namespace: account.Namespace, ServiceAccount: reference{account.Name, account.UID}},
	}
	if bound != nil {
		bound.claim(&c.Kubernetes)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	t.Header["kid"] = i.keyID
	signed, err := t.SignedString(i.key)
	if err != nil {
		return issued{}, fmt.Errorf("sign a token for ServiceAccount %s/%s: %w", account.Namespace, account.Name, err)
	}
	return issued{signed, c.ID, c.ExpiresAt.Time}, nil
}

// issued is a new token, with its id for the audit log.
type issued struct {
	token, id string
	expires   time.Time
}

// binding is an object besides the account that a token lives with.
type binding struct {
	kind   string
	object metav1.Object
	node   *reference // of a Pod, where it is placed
}

func (b *binding) claim(p *private) {
	ref := &reference{b.object.GetName(), b.object.GetUID()}
	switch b.kind {
	case "Pod":
		p.Pod, p.Node = ref, b.node
	case "Secret":
		p.Secret = ref
	case "Node":
		p.Node = ref
	}
}
