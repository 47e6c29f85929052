package greet

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/agent"
)

// The Secret with the cluster's key.
const (
	SecretNamespace = metav1.NamespaceSystem
	SecretName      = "portico-greetings"
	secretKey       = "key"

	keySize = 32 // HMAC-SHA256 gains nothing from more (RFC 2104 section 3)
	minSize = 16
)

// EnsureKey makes the Secret where there is none.
func EnsureKey(ctx context.Context, kube kubernetes.Interface) error {
	secrets := kube.CoreV1().Secrets(SecretNamespace)
	if _, err := secrets.Get(ctx, SecretName, metav1.GetOptions{}); err == nil || !apierrors.IsNotFound(err) {
		if err != nil {
			return fmt.Errorf("read Secret %s/%s: %w", SecretNamespace, SecretName, err)
		}
		return nil
	}
	key := make([]byte, keySize)
	rand.Read(key) //nolint:errcheck // it never fails
	_, err := secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName}, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{secretKey: key},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Secret %s/%s: %w", SecretNamespace, SecretName, err)
	}
	return nil
}

// rollover is how long a new key is accepted before it signs: all nodes must have it by
// then. The old one is accepted until the next.
const rollover = 30 * time.Second

// FollowKey hands over the keys, the signing one first, at first and at each change, until
// ctx ends. A Secret that is missing is made, where this node may: its own cluster makes it
// itself.
func FollowKey(ctx context.Context, kube kubernetes.Interface, log *slog.Logger, to func(keys [][]byte)) {
	s := &keyStore{log: log, news: make(chan []byte, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		agent.WatchOne(ctx, kube, kube.CoreV1().Secrets(SecretNamespace), SecretName, log, s.take)
	}()
	s.run(ctx, kube, to)
	<-done
}

// keyStore passes the one key on; nil: there is none.
type keyStore struct {
	log  *slog.Logger
	news chan []byte // capacity 1
}

func (s *keyStore) run(ctx context.Context, kube kubernetes.Interface, to func([][]byte)) {
	var current, before []byte
	switching := time.NewTimer(time.Hour)
	defer switching.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-s.news:
			switch {
			case key == nil && current == nil:
				if err := EnsureKey(ctx, kube); err != nil && ctx.Err() == nil {
					s.log.Warn("Agents can't greet each other, and announce no address by ARP and NDP, without the cluster's key", "error", err)
				}
			case key == nil || bytes.Equal(key, current):
			case current == nil:
				current = key
				to([][]byte{current})
			default:
				before, current = current, key
				to([][]byte{before, current})
				switching.Reset(rollover)
			}
		case <-switching.C:
			if before != nil {
				to([][]byte{current, before})
			}
		}
	}
}

func (s *keyStore) put(key []byte) {
	select {
	case <-s.news:
	default:
	}
	s.news <- key // only the watch puts: there is room
}

// take reads the key from the Secret, nil where there is none.
func (s *keyStore) take(secret *corev1.Secret) {
	if secret == nil {
		s.put(nil)
		return
	}
	key := secret.Data[secretKey]
	if len(key) < minSize {
		s.log.Warn("The key of greetings between agents is too short and isn't used", "secret", SecretNamespace+"/"+SecretName, "bytes", len(key), "least", minSize)
		return
	}
	s.put(key)
}
