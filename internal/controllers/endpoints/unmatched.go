package endpoints

import (
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// What came closest to a selector changes with pods that the Service doesn't
// select, whose events don't lead to it. So it is looked up again, first after a
// short while and then ever more rarely: it takes a look at all the namespace's
// pods.
const (
	firstLook = 2 * time.Second
	lastLook  = 5 * time.Minute
)

// unmatched knows the Services whose selector matches nothing.
type unmatched struct {
	mu    sync.Mutex
	looks map[types.NamespacedName]look // guarded by mu
}

type look struct {
	next  time.Time
	pause time.Duration
}

// due says whether to look for the closest pods now, and, when a new time was
// set for the next look, in how long that is.
func (u *unmatched) due(key types.NamespacedName, now time.Time) (bool, time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.looks == nil {
		u.looks = map[types.NamespacedName]look{}
	}
	l, known := u.looks[key]
	switch {
	case !known:
		u.looks[key] = look{next: now.Add(firstLook), pause: firstLook}
		return false, firstLook
	case now.Before(l.next):
		return false, 0
	default:
		pause := min(2*l.pause, lastLook)
		u.looks[key] = look{next: now.Add(pause), pause: pause}
		return true, pause
	}
}

func (u *unmatched) forget(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.looks, key)
}

func (c *controller) podsOf(namespace string) ([]*corev1.Pod, error) {
	objs, err := c.pods.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, fmt.Errorf("look up pods of namespace %s: %w", namespace, err)
	}
	out := make([]*corev1.Pod, 0, len(objs))
	for _, obj := range objs {
		out = append(out, obj.(*corev1.Pod))
	}
	return out, nil
}
