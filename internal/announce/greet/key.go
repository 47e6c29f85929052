package greet

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
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
	secrets := kube.CoreV1().Secrets(SecretNamespace)
	only := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, SecretName).String()
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			only(&o)
			return secrets.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			only(&o)
			return secrets.Watch(ctx, o)
		},
	}
	s := &keyStore{log: log, news: make(chan []byte, 1)}
	logger := logr.FromSlogHandler(log.Handler())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, kube), &corev1.Secret{}, s,
			cache.ReflectorOptions{Name: "announce/" + SecretName, Logger: &logger}).RunWithContext(ctx)
	}()
	s.run(ctx, kube, to)
	<-done
}

// keyStore is a cache.ReflectorStore that passes the one key on; nil: there is none.
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
	s.news <- key // only the reflector puts: there is room
}

// Add implements cache.ReflectorStore.
func (s *keyStore) Add(obj any) error {
	secret, ok := obj.(*corev1.Secret)
	if !ok {
		return fmt.Errorf("the watch gave a %T", obj)
	}
	key := secret.Data[secretKey]
	if len(key) < minSize {
		s.log.Warn("The key of greetings between agents is too short and isn't used", "secret", SecretNamespace+"/"+SecretName, "bytes", len(key), "least", minSize)
		return nil
	}
	s.put(key)
	return nil
}

// Update implements cache.ReflectorStore.
func (s *keyStore) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *keyStore) Delete(any) error {
	s.put(nil)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *keyStore) Replace(objs []any, _ string) error {
	if len(objs) == 0 {
		return s.Delete(nil)
	}
	return s.Add(objs[0])
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s *keyStore) Resync() error { return nil }
